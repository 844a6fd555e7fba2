"""What `tandem submit` is compared with: the digits example as a user writes it for Ray Train, without Tandem.

    python submit_bare.py DIGITS STORAGE TOLD

The same towers out of transformers, the same tars through webdataset in the rank's own process, PyTorch's DDP and
AdamW, features gathered from all ranks. It has no checkpoints, no metrics and no resuming. Rank 0 writes the moment at
which the first optimizer step is done to the file TOLD. The script imports nothing of Tandem: it is shipped alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import torch.distributed.nn
import torch.nn.functional as F
import webdataset as wds
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

WORKERS, GLOBAL_BATCH, SIZE, CONTEXT, WIDTH = 2, 128, 32, 48, 64
BEGIN, END, PADDING = 256, 257, 258
VISION = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


class Clip(nn.Module):
    """Two towers and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        tokens = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PADDING}
        text = CLIPTextConfig(**TEXT, **tokens, vocab_size=259, max_position_embeddings=CONTEXT)
        self.vision = CLIPVisionModel(CLIPVisionConfig(**VISION, patch_size=8, image_size=SIZE))
        self.text = CLIPTextModel(text)
        self.project_vision = nn.Linear(VISION["hidden_size"], WIDTH, bias=False)
        self.project_text = nn.Linear(TEXT["hidden_size"], WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, P, P), (n, T) -> features (n, d) of both sides, and the scale."""
        images = self.project_vision(self.vision(pixel_values=pixels).pooler_output)
        texts = self.project_text(self.text(input_ids=tokens, attention_mask=(tokens != PADDING).long()).pooler_output)
        return F.normalize(images), F.normalize(texts), self.log_scale.exp()


def batches(digits: str) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's, without end."""
    shards = [str(path) for path in sorted(Path(digits).glob("*.tar"))]
    samples = wds.WebDataset(shards, shardshuffle=len(shards), nodesplitter=wds.split_by_node).shuffle(1000)
    made = samples.decode("torchrgb").to_tuple("jpg", "txt").map_tuple(pixels_of, tokens_of)
    batched = made.batched(GLOBAL_BATCH // WORKERS, partial=False)
    while True:
        yield from batched


def pixels_of(image: Tensor) -> Tensor:
    """(3, P, P)."""
    return F.interpolate(image[None], (SIZE, SIZE), mode="bicubic")[0] * 2 - 1


def tokens_of(text: str) -> Tensor:
    """(T,)."""
    codes = [BEGIN, *text.encode()[: CONTEXT - 2], END]
    return torch.tensor(codes + [PADDING] * (CONTEXT - len(codes)))


def train(config: dict[str, Any]) -> None:
    """Until the job is stopped."""
    model = ray.train.torch.prepare_model(Clip())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    rank = ray.train.get_context().get_world_rank()
    for step, (pixels, tokens) in enumerate(batches(config["digits"])):
        images, texts, scale = model(pixels, tokens)
        images, texts = (torch.cat(torch.distributed.nn.all_gather(each)) for each in (images, texts))
        logits = scale * images @ texts.T
        labels = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0 and rank == 0:
            Path(config["told"]).write_text(str(time.time()))
        dist.barrier()


if __name__ == "__main__":
    digits, storage, told = sys.argv[1:]
    ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"digits": digits, "told": told},
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS),
        run_config=ray.train.RunConfig(name=Path(told).stem, storage_path=storage),
    ).fit()
