"""The pickle inside a PyTorch file, read by a closed table of instructions and names.

A pickle is a program that may call anything. Here nothing is imported and nothing is called: the
few names that weights need become records of this file, and any other is refused by its name.
"""

import collections
import io
import pickletools
from typing import Any, NamedTuple

from keras_gemma.presets.errors import BadPresetError

Shape = tuple[int, ...]

# What each of PyTorch's storage classes holds.
STORAGES = {
    "FloatStorage": "float32",
    "BFloat16Storage": "bfloat16",
    "HalfStorage": "float16",
    "DoubleStorage": "float64",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


class Storage(NamedTuple):
    """A run of numbers: a member of the zip file."""

    key: str
    dtype: str
    numbers: int


class View(NamedTuple):
    """A tensor: part of a storage."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape


class _Name(NamedTuple):
    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


_MOST_INSTRUCTIONS = 100_000  # a tensor takes some 50 of them, and no Gemma has two thousand
_MARK = object()
_ORDERED = _Name("collections", "OrderedDict")
_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = _Name("torch._utils", "_rebuild_parameter")
_SIZE = _Name("torch", "Size")
_NAMES = {
    _ORDERED,
    _TENSOR,
    _PARAMETER,
    _SIZE,
    *(_Name("torch", storage) for storage in STORAGES),
}
_PUSHES = set(
    """BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8
    SHORT_BINSTRING BINSTRING""".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_OTHERS = set(
    """PROTO FRAME STOP MARK BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL TUPLE
    TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS BINPERSID REDUCE BUILD""".split()
)
_KNOWN = _PUSHES | _CONSTANTS.keys() | _EMPTY.keys() | _OTHERS


def unpickle(data: bytes, where: str) -> Any:
    """What a pickle of weights describes: dicts, lists, numbers, texts, and `View`s.

    Args:
        data: the pickle.
        where: the file, for errors.

    Raises:
        BadPresetError: it is damaged, or asks for anything that weights do not need.
    """
    try:
        return _run(data, where)
    except BadPresetError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise BadPresetError(
            f"{where}: its table of tensors is damaged ({type(error).__name__})."
        ) from None


def _run(data, where):
    stack, memo = [], {}
    for name, argument in _instructions(data, where):
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            (value,) = stack
            return value
        if name in _PUSHES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1), where))
        elif name == "STACK_GLOBAL":
            symbol, module = stack.pop(), stack.pop()
            stack.append(_name(module, symbol, where))
        elif name == "TUPLE":
            stack.append(tuple(_marked(stack)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise ValueError
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "APPEND":
            item = stack.pop()
            _of(stack[-1], list).append(item)
        elif name == "APPENDS":
            items = _marked(stack)
            _of(stack[-1], list).extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _of(stack[-1], dict)[_key(key)] = value
        elif name == "SETITEMS":
            items = _marked(stack)
            target = _of(stack[-1], dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, symbol = stack.pop(), stack.pop()
            stack.append(_made(symbol, _of(arguments, tuple)))
        elif name == "BUILD":  # the attributes of an OrderedDict: versions of modules
            stack.pop()
            _of(stack[-1], dict)
    raise ValueError


def _instructions(data, where):
    """`(name, argument)` of each. pickletools reads arguments, and carries nothing out."""
    file = io.BytesIO(data)
    for _ in range(_MOST_INSTRUCTIONS):
        opcode = pickletools.code2op.get(file.read(1).decode("latin-1"))
        if opcode is None:
            raise ValueError
        if opcode.name not in _KNOWN:
            raise BadPresetError(
                f"{where}: the pickle instruction {opcode.name} is none that weights need, and "
                "nothing in a file is run."
            )
        yield opcode.name, None if opcode.arg is None else opcode.arg.reader(file)
    raise BadPresetError(f"{where}: its table of tensors is too long.")


def _name(module, symbol, where):
    found = _Name(_of(module, str), _of(symbol, str))
    if found not in _NAMES:
        raise BadPresetError(
            f"{where} asks for {str(found)[:80]!r}, which is none of the names that weights need, "
            "and nothing in a file is run. Save the tensors alone: torch.save(model.state_dict())."
        )
    return found


def _made(symbol, arguments):
    """What PyTorch would make; the table of names is closed, so this is all there is."""
    if symbol == _ORDERED:
        return {_key(key): value for key, value in (arguments[0] if arguments else ())}
    if symbol == _SIZE:
        return tuple(_of(arguments[0], tuple))
    if symbol == _PARAMETER:
        return _of(arguments[0], View)
    if symbol == _TENSOR:
        storage, offset, shape, strides = arguments[:4]
        view = View(_of(storage, Storage), _count(offset), _counts(shape), _counts(strides))
        if len(view.shape) != len(view.strides):
            raise ValueError
        return view
    raise ValueError


def _storage(record):
    kind, symbol, key, _, numbers = _of(record, tuple)
    if kind != "storage":
        raise ValueError
    return Storage(_of(key, str), STORAGES[_of(symbol, _Name).name], _count(numbers))


def _marked(stack):
    items = collections.deque()
    while (item := stack.pop()) is not _MARK:
        items.appendleft(item)
    return list(items)


def _of(value, kind):
    if not isinstance(value, kind):
        raise TypeError
    return value


def _key(value):
    # A tuple as a key would be hashed: nested ones can take for ever.
    if type(value) not in (str, int):
        raise TypeError
    return value


def _count(value):
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError
    return value


def _counts(values):
    if len(_of(values, tuple)) > 8:
        raise ValueError
    return tuple(_count(value) for value in values)
