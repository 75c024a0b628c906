"""Whisper's decoder as a plain torch module, under the names of its checkpoints."""

from __future__ import annotations

import torch
from exporters.torch_models import Container
from torch import Tensor, nn
from torch.nn import functional

from bitfold.models.whisper_parts import WhisperConfig


class TextDecoder(nn.Module):
    """Tokens, the encoder's new states, and four caches a layer; the logits and these caches.

    See `bitfold.models.whisper_decoder.build_decoder` for shapes and the order of the caches.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        c = self.config = config
        self.head_dim = c.dim // c.heads  # as a number: no -1 is derived of an empty array
        layers = [
            Container(
                self_attn=self._attention(),
                self_attn_layer_norm=nn.LayerNorm(c.dim),
                encoder_attn=self._attention(),
                encoder_attn_layer_norm=nn.LayerNorm(c.dim),
                fc1=nn.Linear(c.dim, c.ffn),
                fc2=nn.Linear(c.ffn, c.dim),
                final_layer_norm=nn.LayerNorm(c.dim),
            )
            for _ in range(c.layers)
        ]
        decoder = Container(
            embed_tokens=nn.Embedding(c.vocab, c.dim),
            embed_positions=nn.Embedding(c.positions, c.dim),
            layers=nn.ModuleList(layers),
            layer_norm=nn.LayerNorm(c.dim),
        )
        self.model = Container(decoder=decoder)

    def _attention(self) -> Container:
        dim = self.config.dim
        return Container(
            q_proj=nn.Linear(dim, dim),
            k_proj=nn.Linear(dim, dim, bias=False),
            v_proj=nn.Linear(dim, dim),
            out_proj=nn.Linear(dim, dim),
        )

    def forward(self, ids: Tensor, states: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        d, present = self.model.decoder, []
        start = past[0].shape[2]
        total = start + ids.shape[1]
        queries = torch.arange(start, total, device=ids.device)[:, None]
        mask = torch.arange(total, device=ids.device) <= queries
        x = d.embed_tokens(ids) + d.embed_positions.weight[start:total]
        for i, layer in enumerate(d.layers):
            h = layer.self_attn_layer_norm(x)
            h, *new = self._attend(layer.self_attn, h, h, past[4 * i : 4 * i + 2], mask)
            x, present = x + h, present + new
            h = layer.encoder_attn_layer_norm(x)
            h, *new = self._attend(layer.encoder_attn, h, states, past[4 * i + 2 : 4 * i + 4])
            x, present = x + h, present + new
            x = x + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(x))))
        return functional.linear(d.layer_norm(x), d.embed_tokens.weight), *present

    def _attend(
        self,
        a: nn.Module,
        x: Tensor,
        source: Tensor,
        past: list[Tensor],
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The attention's output, and the keys and values with those of `source` behind them."""
        key = torch.cat([past[0], self._heads(a.k_proj(source))], 2)
        value = torch.cat([past[1], self._heads(a.v_proj(source))], 2)
        query = self._heads(a.q_proj(x))
        h = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return a.out_proj(h.transpose(1, 2).flatten(2)), key, value

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, self.config.heads, self.head_dim).transpose(1, 2)
