from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import yaml_reader
from trainer.config.yaml_reader import MAX_BYTES, MAX_DEPTH, Origin, Tree, parse, read_file, refuse_deep
from trainer.errors import ConfigError

HERE = Origin("x.yaml", Path("/somewhere"))


def value(text: str) -> object:
    return parse(text, HERE).data


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse(text, HERE)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5e-3", 5e-4),
        ("+1e3", 1e3),
        ("1.", 1.0),
        ("-.5", -0.5),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("-7", -7),
    ],
)
def test_numbers_follow_yaml_1_2(text: str, number: float) -> None:
    assert value(text) == number
    assert type(value(text)) is type(number)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "y", "1_000", "1:30", "2020-01-01", "1e", "0b1", "nan", "e5", "."]
)
def test_values_that_only_yaml_1_1_converts_are_strings(text: str) -> None:
    assert value(text) == text


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("False", False), ("~", None), ("null", None), ("", None)]
)
def test_booleans_and_null(text: str, expected: object) -> None:
    assert value(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [('"1e-3"', "1e-3"), ("!!str 5", "5"), ("!!float 5", 5.0), ("'true'", "true")]
)
def test_quotes_and_core_tags_determine_the_type(text: str, expected: object) -> None:
    assert value(text) == expected


def test_every_key_and_item_has_a_line() -> None:
    tree = parse("a: 1\nb:\n  c: [1,\n      2]\n  0: x\n", HERE)
    lines = {path: position.line for path, position in tree.positions.items()}
    assert lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 3,
        ("b", "c", 1): 4,
        ("b", 0): 5,
    }
    assert str(tree.positions["b", "c", 1]) == "x.yaml:4"


def test_merge_keys_add_missing_keys() -> None:
    tree = parse("a: &a {x: 1, y: 2}\nb: &b {y: 3}\nc:\n  <<: [*b, *a]\n  z: 4\n", HERE)
    assert tree.data["c"] == {"x": 1, "y": 3, "z": 4}
    assert tree.positions["c", "x"].line == 1


def test_aliases_are_independent_copies() -> None:
    data = parse("a: &a [1]\nb: *a\n", HERE).data
    data["a"].append(2)
    assert data["b"] == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: the key 'a' is already set in line 1"),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml:1: unknown tag"),
        ("a: !mine 1", "x.yaml:1: unknown tag '!mine'"),
        ("a: !!int x", "'x' is not a !!int"),
        ("a: 1\nb: \0", "x.yaml:2: there is a NUL character"),
        ("a: &a [*a]", "*a refers to itself"),
        ("a: *b", "there is no anchor &b above"),
        ("a: &b 1\nc: &b 2", "x.yaml:2: the anchor &b is already set in line 1"),
        ("a: {!!merge b: {c: 1}}", "'b' is not a !!merge"),
        ("a: {<<: !mine [{c: 1}]}", "unknown tag '!mine'"),
        ("? [1]\n: 2", "cannot be a key"),
        ("a: 1\n---\nb: 2", "x.yaml:2: a second document"),
        ("a:\n\tb: 1", "indent with spaces"),
        ("a: [1, 2", "x.yaml:"),
        ("a: " + "9" * 500, "more than 400 characters"),
        (".nan: 1", "NaN cannot be a key"),
        ("a: {<<: 3}", "merges mappings only"),
    ],
)
def test_errors_have_the_line(text: str, words: str) -> None:
    assert words in refusal(text)


@pytest.mark.parametrize(
    "text", ['name: "a\\0b"', '"a\\0b": 1', 'data: {root: "\\u0000"}', 'name: !!str "\\x00"']
)
def test_escaped_nul_characters_are_refused(text: str) -> None:
    assert "x.yaml:2: there is a NUL character" in refusal("\n" + text)


def test_deep_and_large_texts_are_refused_early() -> None:
    assert "nested more than" in refusal("[" * 500_000)
    assert "nested more than" in refusal("{a: " * 200_000)
    assert "more than 20000 values" in refusal("[" + "1," * 200_000 + "]")
    assert "larger than 1 MiB" in refusal("#" * (MAX_BYTES + 1))
    assert "nested more than" in refusal("a: " + "{b: [" * 40 + "]}" * 39)
    value("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert "nested" not in refusal(f"a: '{'[' * 2 * MAX_DEPTH}'\nb: [")
    assert value(f"'{'[' * 2 * MAX_DEPTH}'") == "[" * 2 * MAX_DEPTH


def test_deep_texts_are_refused_before_they_are_loaded() -> None:
    for deep in (
        "[" * 100_000,
        "{a: " * 1_000,
        "- " * 50_000 + "x",
        "? " * 500,
        "[" * 200 + "\n" + "[" * 900,
    ):
        with pytest.raises(yaml.YAMLError):
            refuse_deep(deep.encode())
    flat = "a: [" + "[1], " * 2_000 + "]\n" + "b: '" + "-" * 500 + "'\n"
    for shallow in (flat, "[" * 40 + "]" * 40, "a:\n b:\n  - c\n", " " * 500 + "a: 1"):
        refuse_deep(shallow.encode())


def test_alias_bombs_are_counted_not_expanded() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert "aliases expanded" in refusal("\n".join(rows))
    deep = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60))]
    assert "nested more than" in refusal("\n".join(deep))
    merges = [
        "a0: &a0 {x: 1}",
        *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 40)),
    ]
    assert "aliases expanded" in refusal("\n".join(merges))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found nothing at the top level"),
        (b"- 1\n", "found a list at the top level"),
        (b"a: 1\nb: \xff\n", "bad.yaml:2: byte 0xff is not UTF-8"),
        (b"\xff\xfea\0:\0 \0001\0", "not UTF-8"),
        (b"a: 1\n" * (MAX_BYTES // 5 + 1), "larger than 1 MiB"),
    ],
)
def test_files_that_are_not_configs(folder: Path, content: bytes, words: str) -> None:
    (folder / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_file(Path("bad.yaml"))
    assert words in str(error.value)
    assert str(error.value).startswith("bad.yaml")


def test_files_that_cannot_be_read(folder: Path) -> None:
    for path, words in [
        (folder, "not a file"),
        (folder / "none.yaml", "no such file"),
        (Path("/dev/zero"), "not a file"),
    ]:
        with pytest.raises(ConfigError, match=words):
            read_file(path)
    with pytest.raises(ConfigError):
        read_file(Path("a\0b"))


def written_to_a_pipe(folder: Path, *parts: bytes) -> Tree:
    """Read a named pipe that another thread opens late and writes in parts."""
    os.mkfifo(folder / "pipe")

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), (folder / "pipe").open("wb", buffering=0) as pipe:
            for part in parts:
                time.sleep(0.02)
                pipe.write(part)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return read_file(folder / "pipe")
    finally:
        writer.join()


def test_a_config_can_be_read_from_a_pipe(folder: Path) -> None:
    assert written_to_a_pipe(folder, b"a: 1\n", b"b: ", b"2\n").data == {"a": 1, "b": 2}


def test_reading_a_pipe_has_a_size_limit_and_a_timeout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        written_to_a_pipe(folder, *[bytes(1 << 16)] * 40)
    monkeypatch.setattr(yaml_reader, "PIPE_SECONDS", 0.01)
    with pytest.raises(ConfigError, match="no data arrived through this pipe"):
        read_file(folder / "pipe")


def test_a_byte_order_mark_is_ignored(folder: Path) -> None:
    (folder / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_file(Path("bom.yaml")).data == {"a": 1}


# JSON escapes characters above U+FFFF as surrogate pairs, which YAML does not have.
WORDS = st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=0xD7FF), max_size=8)
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!#'\"|> \n\t,?<1e.0", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        tree = parse(text, HERE)
    except ConfigError:
        return
    assert () in tree.positions


@given(PLAIN)
def test_reads_what_json_writes(data: object) -> None:
    assert value(json.dumps(data)) == data


@given(st.text(alphabet="0123456789+-.eExXoO_:", max_size=8))
def test_every_yaml_1_1_float_with_a_point_has_the_same_value(text: str) -> None:
    try:
        theirs = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return
    if isinstance(theirs, float) and ":" not in text and "_" not in text and text:
        assert value(text) == theirs
