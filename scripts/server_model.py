"""Write the errors of the backtest's server model against published measurements into docs/server-model.md."""

from __future__ import annotations

from pathlib import Path

from tests.simulate.published import page_table

PAGE = Path(__file__).parents[1] / "docs" / "server-model.md"
BEGIN, END = "<!-- errors: begin -->\n", "<!-- errors: end -->\n"


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{page_table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
