import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from keras_gemma.cli import chat as chat_verb
from keras_gemma.cli import line_editor
from keras_gemma.cli.chat_session import COMMANDS, Session
from keras_gemma.cli.common import Settings
from keras_gemma.cli.line_editor import read_message

pytestmark = pytest.mark.once


def lines(*texts):
    """As `input`: gives the texts, raises the errors, then is at its end."""
    given = iter(texts)

    def read(prompt=""):
        text = next(given, EOFError())
        if isinstance(text, BaseException):
            raise text
        return text

    return read


@pytest.fixture
def talk(model, fake_chat, capsys):
    """Type lines into a conversation; returns `(chat, stdout, notes)`."""

    def start(*texts):
        chat, notes = fake_chat(model), []
        session = Session(chat, {}, notes.append, lambda text: nullcontext())
        read = lines(*texts)
        session.run(lambda: read_message(read))
        return chat, capsys.readouterr(), notes

    return start


def test_a_message_gets_one_answer(run, model):
    assert run("chat", "some_preset", "Hi.").stdout == "One two.\n"
    assert run("chat", "Why is it so?").stdout == "One two.\n"
    assert model.prompts == ["Hi.", "Why is it so?"]


def test_a_pipe_gets_one_answer_without_colour(run, model):
    result = run("chat", input="Hi there.\n")
    assert (result.stdout, model.prompts) == ("One two.\n", ["Hi there."])
    assert run("chat", input="").exit_code == 2


def test_json_gives_the_messages(run, model):
    result = json.loads(run("chat", "--json", "--seed", 2, input="Hi.").stdout)
    assert result["messages"][1] == {"role": "model", "content": "One two."}
    assert model.keywords == {"max_new_tokens": 256, "seed": 2}


def test_questions_are_answered_until_the_end(talk):
    chat, out, notes = talk("Hi.", "", "Again?")
    assert out.out == "One two.\nOne two.\n\n"
    assert len(chat.messages) == 4
    assert "2 tokens" in notes[0] and "60 of 100 left" in notes[0]


def test_the_full_context_is_told_before_it_is_cut(talk):
    notes = talk("a", "b", "c")[2]
    assert any("nearly full" in note for note in notes)


def test_lines_are_joined_by_a_backslash_or_quotes(talk):
    chat = talk("one\\", "two", '"""three', "  four", '"""')[0]
    assert [message["content"] for message in chat.messages[::2]] == ["one\ntwo", "three\n  four"]


def test_ctrl_c_keeps_what_was_said_and_goes_on(talk, model):
    model.pieces = ["One ", KeyboardInterrupt()]
    chat, out, _ = talk("Hi.", KeyboardInterrupt())
    assert out.out.startswith("One  …\n")
    assert chat.messages[1]["content"] == "One "


def test_an_error_is_told_and_the_conversation_goes_on(talk, model):
    model.pieces = [ValueError("too long")]
    chat, out, _ = talk("Hi.", "/help")
    assert "too long" in out.err
    assert chat.messages == []


def test_control_codes_of_the_answer_do_not_reach_the_terminal(talk, model):
    model.pieces = ["\x1b[31mred\x07\x9b", "\nnext"]
    assert talk("Hi.")[1].out == "[31mred\nnext\n\n"


def test_undo_retry_and_reset(talk, model):
    assert talk("Hi.", "/undo")[0].messages == []
    assert talk("Hi.", "/retry")[0].messages[0]["content"] == "Hi."
    assert model.prompts[-2:] == ["Hi.", "Hi."]
    assert talk("Hi.", "/reset")[0].messages == []
    for command in ("/undo", "/retry"):
        assert talk(command)[2] == ["Nothing was said yet."]


def test_system_starts_anew(talk):
    chat, _, notes = talk("/system", "Hi.", "/system Be brief.")
    assert (chat.system, chat.messages) == ("Be brief.", [])
    assert notes[0] == "System: none"


def test_save_writes_the_messages(talk, tmp_path):
    chat = talk("Hi.", f"/save {tmp_path / 'talk.json'}", "/save")[0]
    assert json.loads((tmp_path / "talk.json").read_text()) == {"messages": chat.messages}


def test_help_tells_every_command_and_typos_get_the_nearest(talk):
    notes = "\n".join(talk("/help")[2])
    assert all(f"/{name}" in notes for name in COMMANDS)
    assert "Did you mean /retry" in talk("/rety")[2][0]


def test_two_slashes_begin_a_text(talk):
    assert talk("//etc/hosts?")[0].messages[0]["content"] == "/etc/hosts?"


def test_a_base_preset_is_told_to_be_one(capsys):
    settings = Settings(None, None, as_json=False, quiet=False, debug=False)
    chat_verb._greet(settings, "gemma_2b_en")
    assert "not tuned to answer in turns" in capsys.readouterr().err
    chat_verb._greet(settings, "gemma_instruct_2b_en")
    assert "not tuned" not in capsys.readouterr().err


def test_the_code_shown_names_what_was_asked(run, model):
    code = run("chat", "Hi you.", "--system", "Be brief.", "--show-code").stdout
    assert "keras_gemma.Chat(model, system='Be brief.')" in code
    assert "print(chat.send('Hi you.', max_new_tokens=256))" in code
    compile(code, "shown", "exec")
    compile(run("chat", "--show-code").stdout, "shown", "exec")


def test_a_person_at_a_terminal_is_greeted_and_keeps_a_history(model, monkeypatch, tmp_path, run):
    readline = pytest.importorskip("readline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(chat_verb, "sys", terminal)
    read = lines("Hi.")

    def type_in():
        text = read()
        readline.add_history(text)
        return text

    monkeypatch.setattr(chat_verb, "read_message", type_in)
    result = run("chat", "gemma_instruct_2b_en")
    assert result.stdout == "One two.\n\n"
    assert "2,506,172,416 parameters" in result.stderr
    kept = line_editor.history_file()
    assert "Hi." in kept.read_text() and kept.stat().st_mode & 0o77 == 0
    assert run("chat", "--json").exit_code == 2


def test_a_spinner_turns_in_a_terminal_only(monkeypatch, capfd):
    settings = Settings(None, None, as_json=False, quiet=False, debug=False)
    with settings.status("loading"):
        pass
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(Settings, "is_terminal", True)
    with settings.status("loading") as say:
        say("compiling")
    assert "compiling" in capfd.readouterr().err
