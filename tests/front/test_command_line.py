"""What every command has in common: numbers, slips, help, and how they are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from evolute import front
from evolute.hw.spec.presets import PRESETS
from evolute.support.errors import UnknownNameError, near_names
from evolute.support.options import Real, Whole
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.checkpoints.zoo import KNOWN
from evolute.sw.tensors.stored import CheckpointError

VALUES = ("0", "-1", "nan", "inf", "-inf", "1e300", "1" + 300 * "0", "1e-300", "seven", "")


def commands(
    group: click.Group = front.cli, names: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command, inner ones too, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*names, name))
        else:
            yield (*names, name), found


NUMBERS = [
    (names, option)
    for names, each in commands()
    for option in each.params
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
]


def test_the_commands_are_those_of_the_front_door() -> None:
    found = {names[0] for names, _ in commands()}
    assert found == set(front.COMMANDS)
    assert len(NUMBERS) > 25


@pytest.mark.parametrize(
    ("names", "option"), NUMBERS, ids=[" ".join((*n, o.opts[0])) for n, o in NUMBERS]
)
def test_every_number_has_bounds_and_is_refused_by_its_own_name(command, names, option) -> None:
    """What is not refused lies within the bounds, which the command can stand."""
    assert isinstance(option.type, Whole | Real), "a plain int or float takes nan or 10^300"
    assert option.type.min is not None and option.type.max is not None
    allowed = []
    for value in VALUES:
        number = float(value) if value not in ("seven", "") else float("nan")
        if option.type.min <= number <= option.type.max and (
            isinstance(option.type, Real) or value.lstrip("-").isdigit()
        ):
            allowed.append(value)
            continue
        code, out, err = command(*names, option.opts[0], value)
        assert (code, out) == (2, "")
        assert err.startswith(f"evolute: {max(option.opts, key=len)}: must be a")
        assert err.count("\n") == 1 and "Traceback" not in err
        shown = value if len(value) <= 40 else value[:18]
        assert f"got '{shown}" in err
    assert set(allowed) <= {"0", "1e-300"}
    assert (option.type.min == 0) == ("0" in allowed)


@pytest.mark.parametrize(
    "arguments",
    [
        "sim evolute-tiny --accel lut-decode --weight-buffer-kib 0 --prefill 2 --decode 1",
        "run evolute-tiny --prompt One --tokens 2 --temperature 0 --seed 0 --backend integer",
        "run evolute-tiny --prompt One --tokens 2 --temperature 1e-300 --backend integer",
        "eval evolute-tiny --tokens 1",
    ],
)
def test_the_least_of_what_is_allowed_works(command, arguments) -> None:
    extra = ("--tokens", "8") if arguments.startswith("sim") else ()
    code, _, err = command(*arguments.split(), *extra)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sim --bandwidth-gbs 1e6 --frequency-mhz 1e-3", "--bandwidth-gbs 1e+06"),
        ("sim --bandwidth-gbs 1e-6 --frequency-mhz 1e6", "--bandwidth-gbs 1e-06"),
        (f"compile evolute-tiny --base {1 << 99} -o x", "base: must be below 2^40, the core's"),
        ("compile evolute-tiny --prompt-tokens 16777216 -o x", "--prompt-tokens: must be at most"),
    ],
)
def test_numbers_that_fit_nothing_together_are_refused(command, arguments, message) -> None:
    code, out, err = command(*arguments.split())
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("simm", "unknown command 'simm'; did you mean sim?"),
        ("sim --foo", "no option --foo; see evolute sim --help"),
        ("sim --frequency 3", "no option --frequency; did you mean --frequency-mhz?"),
        ("quantize", "Missing option '--method'; see evolute quantize --help"),
        ("verify --sim spice", "--sim: 'spice' is not one of"),
        ("dse --objectives energy,area_ge", "unknown objective 'energy'; it must be one of area"),
        (
            "synth lut-fpga --target ecp5 --device LFE5U-45",
            "unknown ecp5 part 'LFE5U-45'; did you mean LFE5U-45F",
        ),
    ],
)
def test_a_slip_is_one_line_with_exit_code_2(command, arguments, message) -> None:
    code, out, err = command(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"evolute: {message}") and err.count("\n") == 1


def test_only_near_names_are_suggested() -> None:
    names = ["area_ge", "delay_ns", "tokens_per_s", "prefill_tokens_per_s", "perplexity"]
    assert near_names("energy", names) == []
    assert near_names("tokens_per", names)[0] == "tokens_per_s"
    assert near_names("perplexty", names) == ["perplexity"]
    assert near_names("core", list(PRESETS))[0] == "core-decode"
    assert "it must be one of area_ge, delay_ns" in str(UnknownNameError("metric", "x", names))
    many = [f"{index}.gate" for index in range(40)]
    assert "or 24 more" in str(UnknownNameError("layer", "zz", many))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("settings.json", b'{"a": 1}', "is a JSON file; a model is the folder with its config"),
        ("spaced.json", b'\n\n  {"a": 1}', "is a JSON file"),
        ("a.safetensors", b"\x02\0\0\0\0\0\0\0{}", "is a safetensors file; a model is the folder"),
        ("a.bin", b"PK\x03\x04zip", "is a pickle"),
        ("a.txt", b"Once upon a time", "is not a GGUF, safetensors or llama2.c model"),
    ],
)
def test_a_file_that_is_no_model_is_called_what_it_is(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        open_model(tmp_path / name)
    assert message in str(refusal.value)


def test_one_file_of_a_folder_means_the_folder() -> None:
    folder = KNOWN["evolute-tiny"].path
    found = [open_model(folder / name) for name in ("config.json", "model.safetensors")]
    assert {each.params for each in found} == {KNOWN["evolute-tiny"].params}


HEAVY = frozenset(
    ("amaranth", "cocotb", "jinja2", "matplotlib", "optuna", "pyosys", "sqlalchemy", "torch")
)
"""What takes a large part of a second to import."""
NUMERIC = HEAVY | {"numpy", "gguf", "safetensors", "tokenizers"}


def imported_by(*arguments: str) -> set[str]:
    """The packages that a command has imported when it ends; it must succeed."""
    code = (
        "import sys\nfrom evolute import front\n"
        "try:\n    front.main()\n"
        "except SystemExit as done:\n    assert not done.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", ["--help", "models", "accels --json", "dse --help"])
def test_lists_and_help_import_no_library_of_numbers(arguments: str) -> None:
    assert not imported_by(*arguments.split()) & NUMERIC


@pytest.mark.parametrize("names", [names for names, _ in commands()], ids=" ".join)
def test_help_of_every_command_imports_nothing_that_takes_long(names: tuple[str, ...]) -> None:
    assert not imported_by(*names, "--help") & HEAVY


def test_models_asks_no_network_unless_told(command, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("started a program")

    monkeypatch.setattr(subprocess, "run", never)
    for known in KNOWN.values():
        monkeypatch.setattr(type(known), "here", property(lambda self: False))
    code, out, err = command("models", "--json")
    assert (code, err) == (0, "")
    assert [row["name"] for row in json.loads(out) if row["weights"]] == list(KNOWN)


def test_the_list_of_commands_says_what_each_one_says_of_itself(command) -> None:
    _, out, _ = command("--help")
    text = " ".join(out.split())
    for names, each in commands():
        if len(names) == 1:
            assert each.help is not None
            sentence = " ".join(each.help.partition("\n\n")[0].partition(". ")[0].split())
            assert f" {names[0]} {sentence}" in text
