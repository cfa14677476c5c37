import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployment.errors import ConfigurationError
from deployment.modelfile import PARAMETERS, Message, Modelfile, load, parse, render

# A busy machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROOT = Path(__file__).parents[2]


def test_reads_every_command_in_any_case() -> None:
    read = parse(
        """
# a comment
from llama
Parameter temperature 0.5
PARAMETER num_ctx 512
PARAMETER use_mmap True
PARAMETER stop "<|im_end|>"
PARAMETER stop  \tuser: \x20
SYSTEM You are # not a comment
TEMPLATE \"\"\"{{ .Prompt }}
# content
\"\"\"
ADAPTER ./lora.gguf
MESSAGE user "Hello?"
MESSAGE Assistant \"\"\"Yes,
hello.\"\"\"
LICENSE MIT
LICENSE "Apache-2.0"
RENDERER qwen
PARSER qwen
REQUIRES 0.30.0
DRAFT small
"""
    )
    assert read == Modelfile(
        from_="llama",
        parameters={"temperature": 0.5, "num_ctx": 512, "use_mmap": True, "stop": ["<|im_end|>", "user:"]},
        system="You are # not a comment",
        template="{{ .Prompt }}\n# content\n",
        adapters=("./lora.gguf",),
        messages=(Message("user", "Hello?"), Message("assistant", "Yes,\nhello.")),
        license=("MIT", "Apache-2.0"),
        renderer="qwen",
        parser="qwen",
        requires="0.30.0",
        draft="small",
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("bare words", "bare words"),
        ('"quoted"', "quoted"),
        ('" spaces "', " spaces "),
        ('""', ""),
        ('""""""', ""),
        ('"""\n  a\n"b"\n"""', '\n  a\n"b"\n'),
        ('"""a  \n\n b"""  ', "a  \n\n b"),
        ('"one\ntwo"', "one\ntwo"),
        ('"a "word" inside"', 'a "word" inside'),
    ],
)
def test_values(value: str, text: str) -> None:
    assert parse(f"FROM x\nSYSTEM {value}\n").system == text


def test_windows_line_ends() -> None:
    assert parse('FROM x\r\nSYSTEM """a\r\nb"""\r\n').system == "a\nb"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "Modelfile: FROM is missing", "FROM ./model.gguf"),
        ("SYSTEM x", "FROM is missing", "FROM ./model.gguf"),
        ("FROM a\nFROM b", "line 2: a second FROM", "remove"),
        ("FROM", "line 1: FROM has no value", "give one"),
        ("FROM a\n\nSYSTM hello", "line 3: 'SYSTM' is not a command", "Did you mean SYSTEM?"),
        ("FROM a\nhello there", "line 2: 'hello' is not a command", "comment"),
        ("FROM a\nPARAMETER temprature 1", "line 2: there is no parameter 'temprature'", "temperature?"),
        ("FROM a\nPARAMETER zzz 1", "line 2: there is no parameter 'zzz'", "num_ctx"),
        ("FROM a\nPARAMETER mirostat 1", "line 2: Ollama no longer has", "Remove"),
        ("FROM a\nPARAMETER num_ctx", "line 2: PARAMETER needs a name and a value", "both"),
        ("FROM a\nPARAMETER num_ctx many", "line 2: num_ctx is 'many'", "whole number"),
        ("FROM a\nPARAMETER num_ctx 1.5", "line 2: num_ctx is '1.5'", "whole number"),
        ("FROM a\nPARAMETER temperature nan", "line 2: temperature is 'nan'", "a number"),
        ("FROM a\nPARAMETER temperature hot", "line 2: temperature is 'hot'", "a number"),
        ("FROM a\nPARAMETER use_mmap maybe", "line 2: use_mmap is 'maybe'", "true or false"),
        ("FROM a\nMESSAGE robot hi", "line 2: a MESSAGE has no role 'robot'", "assistant"),
        ('FROM a\nTEMPLATE """b\nc\n', "line 2: the quote of TEMPLATE is never closed", "End"),
        ('FROM a\nPARAMETER stop "b\nc\n', "line 2: the quote of PARAMETER is never closed", "End"),
    ],
)
def test_mistakes_name_the_line_and_the_mend(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    assert message in raised.value.message
    assert hint.lower() in (raised.value.hint or "").lower()


def test_load_resolves_paths_against_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    (tmp_path / "lora").touch()
    file = tmp_path / "Modelfile"
    file.write_text("\ufeffFROM ./m.gguf\nADAPTER lora\n", encoding="utf-8")
    read = load(file)
    assert read.from_path == (tmp_path / "m.gguf").resolve()
    assert read.adapters == (str((tmp_path / "lora").resolve()),)


def test_a_model_name_stays_a_name(tmp_path: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text("FROM library/llama3:8b\n")
    assert load(file).from_ == "library/llama3:8b"
    assert load(file).from_path is None


@pytest.mark.parametrize("line", ["FROM ./gone.gguf", "FROM gone.gguf", "FROM x\nADAPTER gone"])
def test_a_missing_file_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "Modelfile"
    file.write_text(line)
    with pytest.raises(ConfigurationError, match="gone") as raised:
        load(file)
    assert str(file) in raised.value.message


def test_no_modelfile(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load(tmp_path / "Modelfile")
    (tmp_path / "Modelfile").write_bytes(b"FROM \xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(tmp_path / "Modelfile")


@pytest.mark.parametrize(("name", "version"), [("Modelfile", "v1.1"), ("Modelfile.v1.0", "v1.0")])
def test_our_own_modelfiles(name: str, version: str) -> None:
    read = load(ROOT / "models" / "ollama" / name)
    assert read.from_.endswith(f"ramsey-model-{version}.gguf")
    assert read.parameters["num_ctx"] == 512
    assert read.parameters["stop"] == ["<|im_end|>", "<|im_start|>"]
    assert read.template is not None
    assert read.template.endswith("<|im_start|>assistant\n")


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\r"'))
_names = st.text(st.characters(categories=["L", "N"]), min_size=1)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_kinds: dict[type, st.SearchStrategy[object]] = {
    int: st.integers(-(10**9), 10**9),
    float: _floats,
    bool: st.booleans(),
    list: st.lists(_texts, min_size=1),
}
_modelfiles = st.builds(
    Modelfile,
    from_=_names,
    parameters=st.fixed_dictionaries({}, optional={key: _kinds[kind] for key, kind in PARAMETERS.items()}),
    template=st.none() | _texts,
    system=st.none() | _texts,
    adapters=st.lists(_names, max_size=2).map(tuple),
    messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), _texts), max_size=2).map(
        tuple
    ),
    license=st.lists(_texts, max_size=2).map(tuple),
    renderer=st.none() | _names,
    parser=st.none() | _names,
    requires=st.none() | _names,
    draft=st.none() | _names,
)


@steady
@given(_modelfiles)
def test_what_is_written_reads_back_the_same(modelfile: Modelfile) -> None:
    assert parse(render(modelfile)) == modelfile


@steady
@given(st.text(st.sampled_from('a "\n#\t')))
def test_a_text_is_written_faithfully_or_refused(text: str) -> None:
    original = Modelfile(from_="x", system=text)
    try:
        written = render(original)
    except ConfigurationError as error:
        assert "cannot hold" in error.message  # noqa: PT017 - it may be refused or not
    else:
        assert parse(written) == original


@steady
@given(st.text())
def test_any_text_is_read_or_refused_with_reason(text: str) -> None:
    try:
        parse(f"FROM x\n{text}")
    except ConfigurationError as error:
        assert error.hint  # noqa: PT017 - it may be refused or not


@pytest.mark.parametrize("command", ["SYSTEM", "MESSAGE user", "PARAMETER stop"])
def test_a_text_of_a_million_lines_is_read_in_one_pass(command: str) -> None:
    """Looking at the whole text again at each line would take many minutes."""
    lines = "\n  a  " * 1_000_000
    assert parse(f'FROM x\n{command} """{lines}"""')
    with pytest.raises(ConfigurationError, match="never closed"):
        parse(f'FROM x\n{command} """{lines}')


@pytest.mark.parametrize("line", ["{} x", "PARAMETER {} 1", "MESSAGE {} x", "PARAMETER top_k {}"])
def test_a_word_as_long_as_a_book_is_refused_in_a_line(line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse("FROM x\n" + line.format("q" * 1_000_000))
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_is_refused_instead_of_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "Modelfile"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    with pytest.raises(ConfigurationError, match="is no file"):
        load(path)
