"""An open_clip model as a `Backbone`.

Shape notation: b batch, h and w pixels, s tokens, d the text tower's width, e the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn
from torchvision.transforms import ColorJitter, Compose, RandomGrayscale

from mwactl.backbone.contract import Augmentation, Backbone, ImageTransform, Modality, Site
from mwactl.backbone.portable import Portable
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.errors import IncompatibleError
from mwactl_clip.config import ClipConfig
from mwactl_clip.hugging_face_blocks import TEXT_HOSTS, follow_precision
from mwactl_clip.portable import portable
from mwactl_clip.sites import tower_sites
from mwactl_clip.tokenizer import load_tokenizer

#: The last linear maps of the towers: open_clip's, timm's own classifiers, a ResNet's attention pool, Hugging Face's.
_HEADS = (
    "visual.proj", "visual.head.", "visual.trunk.head.weight", "visual.trunk.head.bias", "visual.trunk.head.fc.",
    "visual.attnpool.c_proj.", "text_projection", "text.text_projection", "text.proj.",
)  # fmt: skip


class ClipBackbone(Backbone):
    """CLIP, CustomTextCLIP or CoCa (without its decoder), unchanged, behind the contract."""

    def __init__(self, spec: BackboneSpec, weights: WeightsUsed, model: nn.Module, config: ClipConfig) -> None:
        super().__init__(spec, weights)
        if isinstance(model, open_clip.CoCa):
            del model.text_decoder  # it writes captions; retrieval never runs it
        if _hugging_face_kind(model) == "m2m_100":
            follow_precision(model.get_submodule("text.transformer"))
        self.model: Any = model
        self._config = config
        self.eval().requires_grad_(False)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pictures [b, 3, h, w] -> [b, e], not normalised."""
        embedding: Tensor = self.model.encode_image(pixels, normalize=False)
        return embedding

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> [b, e], not normalised. Columns that are padding in every row are not computed."""
        return self.encode_padded_text(self.trim_tokens(tokens))

    def encode_padded_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> [b, e], not normalised; for open_clip's own towers of any length up to the context."""
        if (native := self._native_text) is not None:
            return _encode_native_text(native, tokens)
        if tokens.is_meta and hasattr(self.model.text, "pooler"):
            return self._encode_hugging_face_text_on_meta(tokens)
        embedding: Tensor = self.model.encode_text(tokens, normalize=False)
        return embedding

    def _encode_hugging_face_text_on_meta(self, tokens: Tensor) -> Tensor:
        """Shapes only. Without a mask, whose values transformers would look at: the meta device has none."""
        text = self.model.text
        output = text.transformer(input_ids=tokens)  # [b, s] -> [b, s, d]
        embedding: Tensor = text.proj(text.pooler(output, torch.ones_like(tokens)))  # [b, s, d] -> [b, e]
        return embedding

    @property
    def _native_text(self) -> Any:
        """The module with open_clip's own text layers where captions alone go through them (CoCa adds a token)."""
        if isinstance(self.model, open_clip.CLIP):
            return self.model
        text = self.model.text
        plain = isinstance(text, TextTransformer) and text.cls_emb is None and not text.use_pad_mask
        return text if plain else None

    def trim_tokens(self, tokens: Tensor) -> Tensor:
        """Cut the columns after the longest caption, where the tower provably ignores them."""
        padding = self._ignored_padding
        if tokens.is_meta or padding is None:
            return tokens
        used = (tokens != padding).any(dim=0).nonzero()
        return tokens[:, : int(used.max()) + 1] if len(used) else tokens

    @property
    def _ignored_padding(self) -> int | None:
        """The id that fills captions up on the right without any effect on the embedding; None: there is none."""
        if (native := self._native_text) is not None:
            # Causal attention: nothing after the end token, which has the highest id, can reach it.
            return 0 if native.attn_mask is not None and _pool_type(native) == "argmax" else None
        config = getattr(getattr(self.model, "text", None), "config", None)
        return None if config is None else config.pad_token_id

    def image_transform(self, augmentation: Augmentation | None = None) -> ImageTransform:
        """open_clip's own transforms."""
        if augmentation is None:
            evaluation: ImageTransform = image_transform_v2(self._preprocess, is_train=False)
            return evaluation
        scale = (augmentation.crop_min_scale, 1.0)
        crop, *rest = image_transform_v2(self._preprocess, is_train=True, aug_cfg={"scale": scale}).transforms
        # open_clip has a colour jitter too, and warns that it is unused where it is used.
        colour = [ColorJitter(0.4, 0.4, 0.4, 0.1), RandomGrayscale(0.2)] if augmentation.colour else []
        training: ImageTransform = Compose([crop, *colour, *rest])
        return training

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions -> token ids [b, s] by the model's own tokenizer."""
        tokens: Tensor = self._tokenizer(list(captions))
        return tokens

    def portable(self) -> Portable:
        """The picture transform and the tokenizer as data."""
        return portable(self.spec.name, self._preprocess, self._tokenizer, ignored_padding=self._ignored_padding)

    def sites(self, modalities: Sequence[Modality] = ("image", "text")) -> list[Site]:
        """The blocks of the towers that are asked for, the image tower's first."""
        towers: tuple[Modality, ...] = ("image", "text")
        return [site for tower in towers if tower in modalities for site in tower_sites(self.model, tower)]

    @property
    def logit_scale(self) -> nn.Parameter:
        """open_clip's `logit_scale`."""
        parameter: nn.Parameter = self.model.logit_scale
        return parameter

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """SigLIP's `logit_bias`."""
        return getattr(self.model, "logit_bias", None)

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w)."""
        size = self._preprocess.size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def context_length(self) -> int:
        """The longest caption in tokens."""
        return int(self._config.model_cfg["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH))

    @property
    def embedding_width(self) -> int:
        """e."""
        return int(self._config.model_cfg["embed_dim"])

    def head_parameter_names(self) -> set[str]:
        """The towers' final projections.

        Raises:
            IncompatibleError: The model has none.
        """
        names = {name for name, _ in self.named_parameters() if name.removeprefix("model.").startswith(_HEADS)}
        if not names:
            raise IncompatibleError(
                f"{self.spec.name} has no projection heads to train", fix="method.name=mwa or method.name=full"
            )
        return names

    def architecture(self) -> dict[str, Any]:
        """open_clip's configuration, a Hugging Face text tower's, and the picture preprocessing."""
        model = {**self._config.model_cfg, "quick_gelu": bool(self._config.model_cfg.get("quick_gelu", False))}
        facts = {"family": "clip", "model": model, "preprocess": asdict(self._preprocess)}
        if (kind := _hugging_face_kind(self.model)) is not None:
            facts["text"] = {fact: getattr(self.model.text.config, fact, None) for fact in TEXT_HOSTS[kind].facts}
        return facts

    @cached_property
    def _preprocess(self) -> PreprocessCfg:
        given = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self._config.preprocess.items()
        }
        merged = merge_preprocess_dict(PreprocessCfg(), {**given, "size": self.model.visual.image_size})
        return PreprocessCfg(**merged)

    def load_tokenizer(self, *, download: bool = False) -> Any:
        """open_clip's tokenizer of this model; `download`: it may come from the network (and is then cached).

        Raises:
            NotFoundError: It is not on this machine.
        """
        return load_tokenizer(self.spec, self._config, download=download)

    @cached_property
    def _tokenizer(self) -> Any:
        return self.load_tokenizer()


def _encode_native_text(text: Any, tokens: Tensor) -> Tensor:
    """The text half of `open_clip.CLIP`, or its separate text tower, for any length up to the context.

    Args:
        text: The module that has the layers.
        tokens: [b, s] -> [b, e].
    """
    length = tokens.shape[1]
    x = text.token_embedding(tokens) + text.positional_embedding[:length]  # [b, s] -> [b, s, d]
    mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
    x = text.ln_final(text.transformer(x, attn_mask=mask))
    eos = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
    pooled = text_global_pool(x, tokens, _pool_type(text), eos_token_id=eos)  # [b, s, d] -> [b, d]
    if text.text_projection is None:
        return pooled  # type: ignore[no-any-return]
    if isinstance(text.text_projection, nn.Linear):
        return text.text_projection(pooled)  # type: ignore[no-any-return]
    return pooled @ text.text_projection  # type: ignore[no-any-return]


def _pool_type(text: Any) -> str:
    pool_type: str = text.text_pool_type if isinstance(text, open_clip.CLIP) else text.pool_type
    return pool_type


def _hugging_face_kind(model: Any) -> str | None:
    """What transformers calls the kind of a text tower of its own; None for open_clip's."""
    kind: str | None = getattr(getattr(getattr(model, "text", None), "config", None), "model_type", None)
    return kind
