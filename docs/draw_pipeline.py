"""Draws docs/pipeline.svg, the two stages of CLIP-ReID: ``python docs/draw_pipeline.py``."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT = 880, 330
STYLE = """
text { font: 14px sans-serif; fill: #1f2328; text-anchor: middle }
.title { font-weight: bold; font-size: 15px }
.small { font-size: 12px }
rect { fill: #ffffff; stroke: #57606a; rx: 6 }
.learned { fill: #ddf4ff; stroke: #0969da; stroke-width: 2 }
path { stroke: #57606a; fill: none; marker-end: url(#head) }
marker path { fill: #57606a; stroke: none; marker-end: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  rect { fill: #161b22; stroke: #8b949e }
  .learned { fill: #0c2d6b; stroke: #58a6ff }
  path { stroke: #8b949e }
  marker path { fill: #8b949e }
}"""


def box(x: int, y: int, lines: list[str], learned: bool = False) -> str:
    """A box of 180 x 50 whose upper left corner is (x, y)."""
    kind = ' class="learned"' if learned else ""
    first = y + (30 if len(lines) == 1 else 22)
    words = "".join(f'<text x="{x + 90}" y="{first + 18 * i}">{line}</text>' for i, line in enumerate(lines))
    return f'<rect{kind} x="{x}" y="{y}" width="180" height="50"/>{words}'


def arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<path d="M{x} {y} L{to_x} {to_y}"/>'


def stage(x: int, title: str, sentence: list[str], image_learned: bool, loss: str, note: str) -> str:
    """One stage: sentences and images, their encoders, and the loss between them."""
    parts = [
        f'<text class="title" x="{x + 195}" y="24">{title}</text>',
        box(x, 45, sentence, learned=not image_learned),
        box(x + 210, 45, ["images of hands"]),
        box(x, 130, ["text encoder", "(frozen)"]),
        box(x + 210, 130, ["image encoder", "(trained)" if image_learned else "(frozen)"], learned=image_learned),
        box(x + 105, 225, [loss]),
        arrow(x + 90, 95, x + 90, 128),
        arrow(x + 300, 95, x + 300, 128),
        arrow(x + 90, 180, x + 170, 223),
        arrow(x + 300, 180, x + 220, 223),
        f'<text class="small" x="{x + 195}" y="305">{note}</text>',
    ]
    return "\n".join(parts)


def pipeline() -> str:
    """The whole figure; colours follow the reader's light or dark theme."""
    head = '<marker id="head" markerWidth="9" markerHeight="9" refX="7" refY="4" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"',
            'aria-label="Stage 1 learns a sentence for each identity; stage 2 trains the image encoder against them">',
            f'<style>{STYLE}</style><defs>{head}<path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
            stage(
                20,
                "Stage 1: learn a sentence for each identity",
                ["A photo of a", "[X][X][X][X] hand."],
                False,
                "contrastive loss",
                "only the tokens [X] of each identity are trained",
            ),
            stage(
                470,
                "Stage 2: train the image encoder",
                ["the sentences of", "all identities"],
                True,
                "ID, triplet, i2tce",
                "a test compares image features; it needs no text",
            ),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (Path(__file__).parent / "pipeline.svg").write_text(pipeline(), encoding="utf-8")
