"""The repository's own rules: packages, exports, and who may import whom."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parent.parent
_APART: Final = {"tests", "bench", "build", "dist"}


def _packages() -> dict[str, Path]:
    """The folders that have an `__init__.py`, by the name that they are imported by."""
    folders = {
        path.parent.relative_to(_ROOT)
        for path in _ROOT.rglob("__init__.py")
        if not any(part.startswith(".") or part in _APART for part in path.relative_to(_ROOT).parts)
    }
    return {".".join(("camfabric", *folder.parts)): _ROOT / folder for folder in sorted(folders)}


def _listed() -> list[str]:
    with (_ROOT / "pyproject.toml").open("rb") as file:
        packages: list[str] = tomllib.load(file)["tool"]["setuptools"]["packages"]
    return packages


def _sources() -> list[Path]:
    """Every module of the packages, listed or found."""
    folders = {*_packages().values(), *(_ROOT.joinpath(*name.split(".")[1:]) for name in _listed())}
    return sorted(path for folder in folders for path in folder.glob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(_ROOT).with_suffix("").parts
    return ".".join(("camfabric", *parts)).removesuffix(".__init__")


_SOURCES: Final = _sources()


def _each_module(check: Callable[[Path], None]) -> Callable[[], None]:
    """One test of all modules: a thousand small ones cost ten seconds, and all that are wrong are named anyway."""

    def test() -> None:
        wrong = []
        for path in _SOURCES:
            try:
                check(path)
            except AssertionError as error:
                wrong.append(f"{_name(path)}: {error}")
        assert _SOURCES
        assert not wrong, "\n".join(wrong)

    return test


# Packages


def test_the_listed_packages_are_the_folders() -> None:
    assert _listed() == sorted(_packages())


@pytest.mark.parametrize("name", _listed())
def test_each_package_says_that_it_is_typed(name: str) -> None:
    assert (_ROOT.joinpath(*name.split(".")[1:]) / "py.typed").is_file()


def test_no_module_is_outside_the_packages() -> None:
    tops = {_ROOT / name.split(".")[1] for name in _listed()}
    everywhere = {path for top in tops for path in top.rglob("*.py")}
    assert everywhere == set(_SOURCES)


def test_an_init_exports_again_and_nothing_else() -> None:
    for folder in _packages().values():
        tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        for node in tree.body:
            assert isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign), f"{folder}: line {node.lineno}"


# Modules


@_each_module
def test_a_module_says_what_it_is_in_its_first_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?", ":", "!"))


@_each_module
def test_what_a_module_exports_is_there(path: Path) -> None:
    if path.name in {"__init__.py", "__main__.py"} and "__all__" not in path.read_text(encoding="utf-8"):
        assert not any(isinstance(node, ast.ImportFrom) for node in ast.parse(path.read_text("utf-8")).body) or (
            path.name == "__main__.py"
        )
        return
    module = importlib.import_module(_name(path))
    assert len(set(module.__all__)) == len(module.__all__) > 0
    for name in module.__all__:
        assert hasattr(module, name), name
        assert not name.startswith("_")


@_each_module
def test_a_module_does_not_print(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert lines == []


# Imports


@dataclass(frozen=True)
class _Import:
    module: str
    line: int
    at_load: bool
    """It is done when the module is loaded, and not in a function."""


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(nodes: list[ast.stmt], *, at_load: bool = True) -> Iterator[_Import]:
    """Imports that are carried out; those for type checkers alone are not."""
    for node in nodes:
        if _is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from (_Import(alias.name, node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield _Import(node.module or "", node.lineno, at_load)
            yield from (_Import(f"{node.module}.{alias.name}", node.lineno, at_load) for alias in node.names)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for _, value in ast.iter_fields(node):
                inner = [item for item in value if isinstance(item, ast.stmt)] if isinstance(value, list) else []
                yield from _imports(inner, at_load=at_load and not inside)
                handlers = value if isinstance(value, list) else []
                for handler in handlers:
                    if isinstance(handler, ast.ExceptHandler | ast.match_case):
                        yield from _imports(handler.body, at_load=at_load and not inside)


def _all_imports(path: Path) -> list[_Import]:
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")).body))


def _part(path: Path) -> str:
    return path.relative_to(_ROOT).parts[0]


_MAY_IMPORT: Final = {
    "common": {"common"},
    "publisher": {"publisher", "common"},
    "subscriber": {"subscriber", "common"},
    "broker": {"broker", "common"},
    "gateway": {"gateway", "subscriber", "common"},
    "recorder": {"recorder", "subscriber", "common"},
}


@_each_module
def test_parts_import_those_below_them_alone(path: Path) -> None:
    part = _part(path)
    wrong = [
        f"line {found.line}: {found.module}"
        for found in _all_imports(path)
        if found.module.startswith("camfabric.")
        and (target := found.module.split(".")[1]) not in _MAY_IMPORT.get(part, {target})
    ]
    assert wrong == []


@_each_module
def test_nobody_imports_the_command_line(path: Path) -> None:
    found = [found for found in _all_imports(path) if found.module.startswith("camfabric.cli")]
    assert found == [] or _part(path) == "cli"


_SOCKETS = ("audience", "backlog", "certificates", "dial", "peers", "sockets", "zap")
"""What of `common` is about sockets and their keys."""


@_each_module
def test_zmq_is_imported_where_sockets_are(path: Path) -> None:
    found = [found for found in _all_imports(path) if found.at_load and found.module.split(".")[0] == "zmq"]
    of_sockets = path.parent == _ROOT / "common" and path.stem in _SOCKETS
    assert found == [] or of_sockets or _part(path) in {"publisher", "subscriber", "broker"}


def _may_load_pictures(path: Path) -> bool:
    sources = _ROOT / "publisher" / "sources"
    return path.parent in {sources, _ROOT / "common" / "codecs"} or path == _ROOT / "subscriber" / "mosaic.py"


@_each_module
def test_pictures_libraries_are_imported_where_pictures_are(path: Path) -> None:
    heavy = [
        found for found in _all_imports(path) if found.at_load and found.module.split(".")[0] in {"av", "cv2", "numpy"}
    ]
    assert heavy == [] or _may_load_pictures(path)


def _loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    program = f"import sys\n{statement}\nsys.stdout.write(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize("name", ["publisher", "subscriber", "broker", "common.wire", "common.codecs", "cli.main"])
def test_an_import_loads_no_pictures_library(name: str) -> None:
    loaded = _loaded_by(f"import camfabric.{name}")
    assert "camfabric" in loaded
    assert loaded.isdisjoint({"av", "cv2", "numpy"})


@pytest.mark.parametrize("name", ["wire", "topics", "status", "mailbox", "roster", "frame", "redact", "endpoint"])
def test_the_pure_parts_load_no_zmq(name: str) -> None:
    assert "zmq" not in _loaded_by(f"import camfabric.common.{name}")


def test_an_import_at_the_top_is_told_from_one_in_a_function() -> None:
    tree = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\ntry:\n    import c\nexcept ImportError:\n    import d\n"
        "def f():\n    import e\nclass G:\n    import h\n    def i(self):\n        from j import k\n"
    )
    found = list(_imports(tree.body))
    assert [each.module for each in found if each.at_load] == ["a", "c", "d", "h"]
    assert [each.module for each in found if not each.at_load] == ["e", "j", "j.k"]
