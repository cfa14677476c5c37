"""The table in docs/security.md and the tests of attacks say the same."""

import ast
import re
from pathlib import Path

from tests.support.stack import ROOT

TESTS = ROOT / "tests" / "deployment"
_ROW = re.compile(r"^\| (?P<attack>[^|]+) \| (?P<got>[^|]+) \| (?P<where>[^|]+) \|$")
_NO_ATTACK = "test_a_good_"
"""So are tests called that what looks like an attack and is none goes on working."""
_TEST = re.compile(r"`(?P<file>[\w/.]+\.py)::(?P<name>test_\w+)`")


def rows() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Attack, what it got, and its tests as file and name."""
    found = []
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        row = _ROW.match(line)
        if row is not None and (tests := _TEST.findall(row["where"])):
            found.append((row["attack"].strip(), row["got"].strip(), tests))
    return found


def functions_of(file: Path) -> set[str]:
    """Names of a file's test functions."""
    tree = ast.parse(file.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}


def test_the_table_has_at_least_sixty_attacks_each_once() -> None:
    attacks = [attack for attack, _, _ in rows()]
    assert len(attacks) >= 60
    assert len(attacks) == len(set(attacks))


def test_every_row_names_tests_that_exist() -> None:
    for attack, got, tests in rows():
        assert got, attack
        for file, name in tests:
            assert (TESTS / file).is_file(), f"{attack}: there is no {file}"
            assert name in functions_of(TESTS / file), f"{attack}: {file} has no {name}"


def test_every_test_of_an_attack_is_in_the_table() -> None:
    named = {(file, name) for _, _, tests in rows() for file, name in tests}
    for file in sorted((TESTS / "attacks").glob("test_*.py")):
        if file != Path(__file__).resolve():
            attacks = {name for name in functions_of(file) if not name.startswith(_NO_ATTACK)}
            missing = {name for name in attacks if ("attacks/" + file.name, name) not in named}
            assert not missing, f"docs/security.md has no row for {file.name}: {sorted(missing)}"
