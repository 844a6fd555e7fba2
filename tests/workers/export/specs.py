"""Jobs whose models are exported: of each make that a format holds in another way."""

from __future__ import annotations

import re

from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.workers.tiny_job import SPEC

CLIP = SPEC % "data"
TEXT_TEXT = """
apiVersion: tandem/v1
name: tiny-text
objective: {kind: text_text}
data:
  sources: [{name: pairs, urls: ["data/*.tar"]}]
  query: {context_length: 16, prefix: "query: ", tokenizer: {kind: bpe, vocabulary: 300}}
  document: {context_length: 24, prefix: "passage: ", tokenizer: {kind: bpe, vocabulary: 300}}
model:
  text:
    kind: config
    architecture: bert
    settings: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2}
    projection: mlp
  embedding_dim: 16
training:
  global_batch: 8
  steps: 7
  optimizer: {kind: adamw, learning_rate: 1e-3}
"""
SIGLIP = (
    "model.image={kind: config, architecture: siglip_vision_model, projection: none, settings: {hidden_size: 32, "
    "intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, patch_size: 8}}",
    "model.text={kind: config, architecture: siglip_text_model, projection: none, settings: {hidden_size: 32, "
    "intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2}}",
    "model.embedding_dim=32",
    "objective.loss={kind: siglip}",
    "objective.logit_scale={init: 10}",
)
MIXED = (
    "model.image={kind: config, architecture: resnet, settings: {embedding_size: 8, hidden_sizes: [8, 16], "
    "depths: [1, 1], layer_type: basic}}",
    "model.text.pooling=mean",
)
TWO_VIEWS = (
    "objective={kind: two_view, loss: {kind: ntxent}}",
    "data.image.views=2",
    "model.image.pooling=mean",
    "model.image.projection=mlp",
)
TWO_TEXT_TOWERS = (
    "model={embedding_dim: 32, query: {kind: transformer, width: 32, layers: 1, heads: 2, projection: none}, "
    "document: {kind: config, architecture: qwen2, settings: {hidden_size: 32, intermediate_size: 64, "
    "num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}}}",
)


def two_view_spec() -> JobSpec:
    text = re.sub(r"\n  text: .*", "", CLIP)  # in data and in model
    return loads(text, "two-views.yaml", TWO_VIEWS)


SPECS = {
    "clip": loads(CLIP),
    "siglip": loads(CLIP, "siglip.yaml", SIGLIP),
    "mixed": loads(CLIP, "mixed.yaml", MIXED),
    "two_views": two_view_spec(),
    "text": loads(TEXT_TEXT),
    "two_texts": loads(TEXT_TEXT, "two.yaml", TWO_TEXT_TOWERS),
}
