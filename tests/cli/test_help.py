from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import mwactl
from mwactl.config import options
from mwactl.errors import EXIT_CODE_MEANINGS, ExitCode


def test_exit_codes_are_all_explained(mwactl_cli):
    lines = mwactl_cli("help", "exit-codes").stdout.splitlines()
    assert [line.split("\t") for line in lines] == [[str(int(code)), EXIT_CODE_MEANINGS[code]] for code in ExitCode]


def test_exit_codes_as_json(mwactl_cli):
    document = mwactl_cli("help", "exit-codes", "--json").json
    assert document["schema"] == 1
    assert {row["code"] for row in document["exit_codes"]} == {0, 1, 2, 3, 4, 5, 6, 130}


def test_references_that_are_explained_can_be_parsed(mwactl_cli):
    from mwactl.registry.reference import Reference, parse_reference

    rows = mwactl_cli("help", "references", "--json").json["references"]
    parsed = [parse_reference(row["form"]) for row in rows]
    assert [str(reference) for reference in parsed] == [row["form"] for row in rows]
    forms = {field.name for reference in parsed for field in fields(reference) if getattr(reference, field.name)}
    assert forms == {field.name for field in fields(Reference)}, "a form of reference that no line explains"
    assert mwactl_cli("help", "references").stdout.startswith("coco-mwa\t")


def test_environment_shows_what_is_in_effect(mwactl_cli, monkeypatch, empty_home):
    monkeypatch.setenv("MWACTL_REGISTRY", "/elsewhere")
    rows = {row["variable"]: row for row in mwactl_cli("help", "environment", "--json").json["environment"]}
    assert rows["MWACTL_HOME"]["value"] == str(empty_home)
    assert (rows["MWACTL_REGISTRY"]["value"], rows["MWACTL_REGISTRY"]["set"]) == ("/elsewhere", True)
    monkeypatch.delenv("MWACTL_REGISTRY")
    rows = {row["variable"]: row for row in mwactl_cli("help", "environment", "--json").json["environment"]}
    assert (rows["MWACTL_REGISTRY"]["value"], rows["MWACTL_REGISTRY"]["set"]) == (str(empty_home / "registry"), False)


_READ = [
    r'environ(?:\.get\(|\[)"([A-Z_]+)"(?!\] =)',
    r'getenv\("([A-Z_]+)"',
    r'"([A-Z_]+)" (?:not )?in os\.environ',
    r'envvar="([A-Z_]+)"',
    r'"(MWACTL_[A-Z_]+)"',
]
"""How source code names an environment variable that it reads."""


def test_environment_lists_every_variable_the_code_reads(mwactl_cli):
    package = Path(mwactl.__file__).parent
    files = [*package.rglob("*.py"), *(package.parent / "backbones").rglob("*.py")]
    source = "\n".join(file.read_text("utf-8") for file in files)
    read = {name for pattern in _READ for name in re.findall(pattern, source)}
    rows = mwactl_cli("help", "environment", "-q").stdout.split()
    assert {"MWACTL_HOME", "MWACTL_REGISTRY", "MWACTL_DEBUG", "DOCKER_CONFIG", "HF_ENDPOINT"} <= read <= set(rows)
    assert len(rows) == len(set(rows))


def test_config_explains_every_option(mwactl_cli):
    stdout = mwactl_cli("help", "config").stdout
    for path, option in options().items():
        assert re.search(rf"^{re.escape(path)}( = |:$)", stdout, re.MULTILINE), path
        assert option.description in stdout
    assert "train.batch_size = a whole number (above 0); default 256\n" in stdout


def test_config_as_json_lists_options_without_sections(mwactl_cli):
    rows = mwactl_cli("help", "config", "--json").json["options"]
    assert [row["option"] for row in rows] == [path for path, option in options().items() if not option.is_section]
    assert [row["option"] for row in rows if row["required"]] == ["name", "backbone.name", "data.name"]


@pytest.mark.parametrize("topic", ["exit-codes", "references", "environment", "config"])
def test_every_help_text_ends_with_an_example(mwactl_cli, topic):
    assert f"Example: mwactl help {topic}" in mwactl_cli("help", topic, "--help").stdout


def test_commands_import_no_pydantic_and_no_yaml_before_they_run():
    code = "import sys, mwactl.cli, mwactl.cli.help; print(sorted({'pydantic', 'yaml', 'torch'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


def test_what_typer_is_made_of_is_never_imported():
    """Typer has changed what it stands on before: only its public names are used, and nothing from beneath it."""
    files = [path for path in Path(mwactl.__file__).parent.rglob("*.py") if "templates" not in path.parts]
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "click" or name.startswith("typer.")], file
