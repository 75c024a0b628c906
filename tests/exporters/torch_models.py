"""MiniLM and Whisper's encoder as plain torch modules, under the names of their checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitfold.models.bert import BertConfig
from bitfold.models.whisper_parts import WhisperConfig


class Container(nn.Module):
    """A name in a path of modules."""

    def __init__(self, /, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class SentenceEncoder(nn.Module):
    """A BERT with mean pooling; see `bitfold.models.bert.build_bert`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embeddings = Container(
            word_embeddings=nn.Embedding(c.vocab, c.dim),
            position_embeddings=nn.Embedding(c.positions, c.dim),
            token_type_embeddings=nn.Embedding(c.types, c.dim),
            LayerNorm=nn.LayerNorm(c.dim, c.norm_eps),
        )
        layers = [
            Container(
                attention=Container(
                    self=Container(
                        query=nn.Linear(c.dim, c.dim),
                        key=nn.Linear(c.dim, c.dim),
                        value=nn.Linear(c.dim, c.dim),
                    ),
                    output=Container(
                        dense=nn.Linear(c.dim, c.dim), LayerNorm=nn.LayerNorm(c.dim, c.norm_eps)
                    ),
                ),
                intermediate=Container(dense=nn.Linear(c.dim, c.ffn)),
                output=Container(
                    dense=nn.Linear(c.ffn, c.dim), LayerNorm=nn.LayerNorm(c.dim, c.norm_eps)
                ),
            )
            for _ in range(c.layers)
        ]
        self.encoder = Container(layer=nn.ModuleList(layers))

    def forward(self, ids: Tensor, keep: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        e = self.embeddings
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = e.word_embeddings(ids) + e.token_type_embeddings(types)
        x = e.LayerNorm(x + e.position_embeddings(positions))
        # Expanded, as the reference code has it: ORT's Attention does not broadcast queries.
        mask = keep[:, None, None, :].to(torch.bool).expand(-1, -1, ids.shape[1], -1)
        for layer in self.encoder.layer:
            inner, out = layer.attention.self, layer.attention.output
            q, k, v = (self._heads(f(x)) for f in (inner.query, inner.key, inner.value))
            h = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = out.LayerNorm(x + out.dense(h.transpose(1, 2).flatten(2)))
            h = functional.gelu(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(x + layer.output.dense(h))
        kept = keep[:, :, None].to(x.dtype)
        mean = (x * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
        return x, functional.normalize(mean, dim=1)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, self.config.heads, -1).transpose(1, 2)


class SpeechEncoder(nn.Module):
    """Whisper's encoder; see `bitfold.models.whisper_encoder.build_encoder`."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        c = self.config = config
        layers = [
            Container(
                self_attn=Container(
                    q_proj=nn.Linear(c.dim, c.dim),
                    k_proj=nn.Linear(c.dim, c.dim, bias=False),
                    v_proj=nn.Linear(c.dim, c.dim),
                    out_proj=nn.Linear(c.dim, c.dim),
                ),
                self_attn_layer_norm=nn.LayerNorm(c.dim),
                fc1=nn.Linear(c.dim, c.ffn),
                fc2=nn.Linear(c.ffn, c.dim),
                final_layer_norm=nn.LayerNorm(c.dim),
            )
            for _ in range(c.layers)
        ]
        encoder = Container(
            conv1=nn.Conv1d(c.mels, c.dim, 3, padding=1),
            conv2=nn.Conv1d(c.dim, c.dim, 3, padding=1, stride=2),
            embed_positions=nn.Embedding(c.frames, c.dim),
            layers=nn.ModuleList(layers),
            layer_norm=nn.LayerNorm(c.dim),
        )
        self.model = Container(encoder=encoder)

    def forward(self, mel: Tensor) -> Tensor:
        e = self.model.encoder
        x = functional.gelu(e.conv2(functional.gelu(e.conv1(mel))))
        x = x.transpose(1, 2) + e.embed_positions.weight
        for layer in e.layers:
            h, a = layer.self_attn_layer_norm(x), layer.self_attn
            q, k, v = (self._heads(f(h)) for f in (a.q_proj, a.k_proj, a.v_proj))
            h = functional.scaled_dot_product_attention(q, k, v)
            x = x + a.out_proj(h.transpose(1, 2).flatten(2))
            h = functional.gelu(layer.fc1(layer.final_layer_norm(x)))
            x = x + layer.fc2(h)
        return e.layer_norm(x)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, self.config.heads, -1).transpose(1, 2)
