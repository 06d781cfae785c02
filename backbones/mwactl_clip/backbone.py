"""An open_clip model as a `Backbone`.

Shape notation: b batch, h and w pixels, s tokens, d the text tower's width, e the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torchvision.transforms import ColorJitter, Compose, RandomGrayscale

from mwactl.backbone.contract import Augmentation, Backbone, ImageTransform, Modality, Site
from mwactl.backbone.portable import Portable
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.errors import IncompatibleError, NotFoundError, UsageError
from mwactl_clip.portable import portable
from mwactl_clip.sites import tower_sites
from mwactl_clip.weights import network

#: What a Hugging Face configuration says beyond its tensors' shapes.
_TEXT_FACTS = ("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "pad_token_id")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)
_HEADS = ("visual.proj", "visual.head.", "text_projection", "text.text_projection", "text.proj.")


@dataclass(frozen=True)
class ClipConfig:
    """What open_clip needs to build a model.

    Args:
        model_cfg: open_clip's model configuration.
        preprocess: What differs from open_clip's default preprocessing.
        folder: The model's own folder, for `local-dir`.
    """

    model_cfg: dict[str, Any]
    preprocess: dict[str, Any]
    folder: Path | None


class ClipBackbone(Backbone):
    """CLIP, CustomTextCLIP or CoCa (without its decoder), unchanged, behind the contract."""

    def __init__(self, spec: BackboneSpec, weights: WeightsUsed, model: nn.Module, config: ClipConfig) -> None:
        super().__init__(spec, weights)
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
        if isinstance(self.model, open_clip.CLIP):
            return self._encode_native_text(tokens)
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

    def _encode_native_text(self, tokens: Tensor) -> Tensor:
        """The text half of `open_clip.CLIP`, for any length up to the context: [b, s] -> [b, e]."""
        model, length = self.model, tokens.shape[1]
        x = model.token_embedding(tokens) + model.positional_embedding[:length]  # [b, s] -> [b, s, d]
        mask = None if model.attn_mask is None else model.attn_mask[:length, :length]
        x = model.ln_final(model.transformer(x, attn_mask=mask))
        eos = getattr(model, "text_eos_id", None)
        pooled = text_global_pool(x, tokens, model.text_pool_type, eos_token_id=eos)  # [b, s, d] -> [b, d]
        if model.text_projection is None:
            return pooled  # type: ignore[no-any-return]
        if isinstance(model.text_projection, nn.Linear):
            return model.text_projection(pooled)  # type: ignore[no-any-return]
        return pooled @ model.text_projection  # type: ignore[no-any-return]

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
        if isinstance(self.model, open_clip.CLIP):
            # Causal attention: nothing after the end token, which has the highest id, can reach it.
            causal = self.model.text_pool_type == "argmax" and self.model.attn_mask is not None
            return 0 if causal else None
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
        return int(self.model.context_length)

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
        hugging_face = getattr(getattr(self.model, "text", None), "config", None)
        if hugging_face is not None:
            facts["text"] = {fact: getattr(hugging_face, fact, None) for fact in _TEXT_FACTS}
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
        what = f"the tokenizer of {self.spec.name} is not on this machine"
        folder = self._config.folder
        wanted = self._config.model_cfg["text_cfg"].get("hf_tokenizer_name")
        if wanted and folder is not None and not any((folder / name).is_file() for name in _VOCABULARIES):
            # transformers would make a tokenizer that knows no word, without a warning.
            raise NotFoundError(
                what,
                where=str(folder),
                why=f"none of {', '.join(_VOCABULARIES)} is there",
                fix="copy it to this folder",
            )
        with network(allowed=download):
            try:
                return open_clip.get_tokenizer(self.spec.model)
            except ImportError as error:
                raise UsageError(
                    f"the tokenizer of {self.spec.name} needs the package transformers",
                    fix="pip install 'mwactl[hf-text]'",
                ) from error
            except (OSError, ValueError) as error:
                raise NotFoundError(
                    what, why=" ".join(str(error).split())[:200], fix="add --download once, so that it is cached"
                ) from error

    @cached_property
    def _tokenizer(self) -> Any:
        return self.load_tokenizer()
