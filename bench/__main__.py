"""`python -m bench [NAME…]`: run the benchmarks of this folder, or those named, one after the other.

A benchmark is a module here with `main() -> int`, zero when its bound holds. Each runs as a process of its own, so that
what one leaves behind (an event loop's policy, a log level, memory) does not colour the next.
"""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def benches() -> dict[str, str]:
    """Every benchmark's name with the first line of what it says of itself."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        tree = ast.parse(path.read_text())
        mains = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
        if path.stem != "__main__" and any(mains):
            found[path.stem] = (ast.get_docstring(tree) or path.stem).splitlines()[0]
    return found


def main(names: Sequence[str]) -> int:
    """Run them; non-zero when one failed, 2 when a name is unknown."""
    known = benches()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" did you mean {near[0]!r}?" if near else ""
            print(
                f"{name}: no such benchmark;{hint} there are: {', '.join(known)}", file=sys.stderr
            )
            return 2
    failed = [name for name in names or known if not _run(name, known[name])]
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, heading: str) -> bool:
    print(f"\n== {name}: {heading}", flush=True)
    code = f"import sys; from bench.{name} import main; sys.exit(main())"
    return (
        subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=False).returncode == 0
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
