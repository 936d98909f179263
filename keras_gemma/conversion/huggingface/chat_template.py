"""Gemma's turns as the Jinja template that other programs render conversations with."""

_TURNS = (b"<start_of_turn>", b"<end_of_turn>")

# The same text as `keras_gemma.text.turns` makes of the same messages, and the same refusals.
# `{%-` and `-%}` keep the template's own line breaks out; those of the turns are in the strings.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set turns = messages -%}
{%- set preface = '' -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- if messages[0]['content'] -%}
        {%- set preface = messages[0]['content'] + '\\n\\n' -%}
    {%- endif -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- set speaker = 'model' if turn['role'] == 'assistant' else turn['role'] -%}
    {%- if speaker != ('user' if loop.index0 % 2 == 0 else 'model') -%}
        {{- raise_exception('User and model speak in turn, and the user begins.') -}}
    {%- endif -%}
    {{- '<start_of_turn>' + speaker + '\\n' -}}
    {{- (preface if loop.first else '') + turn['content'] -}}
    {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""


def template_of(vocabulary: bytes | None, chats: bool | None) -> str | None:
    """The template to write beside a vocabulary, if any.

    >>> template_of(b"<start_of_turn>, <end_of_turn>", chats=False)

    Args:
        vocabulary: a serialized SentencePiece model.
        chats: whether the model was tuned on turns. Base models were not, though their vocabulary
            has the tokens; where it is not known, these decide.
    """
    if vocabulary is None or chats is False:
        return None
    return CHAT_TEMPLATE if all(name in vocabulary for name in _TURNS) else None
