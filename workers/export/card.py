"""The model card: what the model is, how it is used, what it was made of, how it scored."""

from __future__ import annotations

from typing import Any

from jobspecs.load import dumps
from workers.export.source import Source

_LIBRARY = {"transformers": "transformers", "sentence-transformers": "sentence-transformers"}


def model_card(source: Source, format_: str, usage: str) -> str:
    """README.md, in Markdown, with the hub's header. `usage` is Python."""
    spec, manifest = source.spec, source.manifest
    library = f"library_name: {_LIBRARY[format_]}\n" if format_ in _LIBRARY else ""
    towers = "\n".join(f"- {' and '.join(tower.sides)}: {tower}" for tower in source.towers)
    return f"""\
---
{library}pipeline_tag: feature-extraction
tags: [contrastive, tandem]
---

# {spec.name}

Embeddings of {spec.model.embedding_dim} dimensions, trained by [Tandem](#made-of) for {manifest.step} steps
(objective `{spec.objective.kind}`, loss `{spec.objective.loss.kind}`). Compare them by cosine.

{towers}

## Usage

In this folder:

```python
{usage}```

{_inputs(source)}
## Scores

{_scores(source.scores)}

## Made of

| | |
|---|---|
| checkpoint | `{source.checkpoint}`, step {manifest.step} |
| experiment | `{manifest.spec_hash}` |
| data (fingerprint of their index) | `{manifest.index_fingerprint}` |
{_tokenizers(source)}| scale of similarities | exp({source.log_scale:.6f}) |
| masked samples | {manifest.masked_samples} |

The spec:

```yaml
{dumps(spec)}```
"""


def _inputs(source: Source) -> str:
    """What an input has to be."""
    lines = []
    if (image := source.spec.data.image) is not None:
        lines.append(
            "- Images: `pixels(file)` of `pixels.py` gives the picture that the model was trained on (upright, on "
            f"white, the largest centred square, {image.size}×{image.size}). An image processor alone scales by "
            "another filter: pixels of photos then differ by 32 to 50 dB (PSNR), those of RGB images of that size not "
            "at all."
        )
    for side, text in source.spec.data.texts.items():
        prefix = f", `{text.prefix}` before each" if text.prefix else ""
        lines.append(f"- Texts ({side}): up to {text.context_length} tokens{prefix}; what is longer is cut.")
    return "\n".join(lines) + "\n"


def _scores(results: tuple[dict[str, Any], ...]) -> str:
    """A row for each result, as the run keeps it; those of older versions have less in them."""
    if not results:
        return "This checkpoint was not evaluated."
    rows = [("evaluation", "kind", "scores, the main one first", "chance", "samples", "data"), ("---",) * 6]
    for result in results:
        main = result.get("main")
        scores = sorted(result.get("scores", {}).items(), key=lambda item: item[0] != main)
        interval = result.get("interval")
        within = f" ({interval[0]:.4f}…{interval[1]:.4f})" if interval else ""
        rows.append(
            (
                str(result.get("evaluation", "")),
                str(result.get("kind", "")),
                ", ".join(f"{name} {value:.4f}{within if name == main else ''}" for name, value in scores),
                f"{result['chance']:.4f}" if "chance" in result else "",
                str(result.get("samples", "")),
                f"`{result['data_fingerprint'][:16]}`" if "data_fingerprint" in result else "",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _tokenizers(source: Source) -> str:
    return "".join(f"| tokenizer of {side} | `{one.fingerprint()}` |\n" for side, one in source.tokenizers.items())
