"""Loads exports without anything of Tandem: runs the Python of their model cards as a reader of a card would.

    python loading.py WORK.json [FOLDER OF PACKAGES]

WORK.json: `images` (files), `texts`, and `exports`: of each its folder and sides. Each export gets an
`embeddings.npz` in its folder: (n, d) of each side, of images as its own `pixels.py` prepares them, and `opened`: of
images as Pillow opens them.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
import warnings
from pathlib import Path


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    sys.path += sys.argv[2:]
    import numpy as np
    from PIL import Image

    opened = [Image.open(name).convert("RGB") for name in work["images"]]
    assert not any(name.split(".")[0] in ("workers", "jobspecs", "orchestrator") for name in sys.modules)
    for export in work["exports"]:
        os.chdir(export["folder"])
        (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
        names: dict[str, object] = {}
        exec(compile(code, "README.md", "exec"), names)
        inputs = {side: (side, work["texts"]) for side in export["sides"]}
        if "image" in inputs:
            (place,) = Path.cwd().rglob("pixels.py")
            pixels = runpy.run_path(str(place))["pixels"]
            inputs |= {"image": ("image", [pixels(name) for name in work["images"]]), "opened": ("image", opened)}
        found = {key: names[f"embed_{side}"](given) for key, (side, given) in inputs.items()}  # type: ignore[operator]
        np.savez("embeddings.npz", **{side: value.numpy() for side, value in found.items()})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
