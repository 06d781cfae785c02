"""The front matter: what the Hugging Face Hub reads of a card.

The Hub has no task for image-text retrieval. `feature-extraction` is what such a model does there: it turns pictures
and texts into vectors. (`zero-shot-image-classification` would name a task that nothing here measures.)
"""

from __future__ import annotations

from typing import Any

from mwactl.card.licences import hub_licence
from mwactl.card.subject import RECALLS, Evaluation, Subject, is_hub_id

_DIRECTIONS = {"image_to_text": "image-to-text", "text_to_image": "text-to-image"}


def front_matter(subject: Subject) -> dict[str, Any]:
    """The keys and values, in the order in which they are written; a key whose value is not known is left out."""
    found: dict[str, Any] = hub_licence(subject.licence, subject.licence_link) if subject.licence else {}
    found |= {"library_name": "mwactl", "pipeline_tag": "feature-extraction", "tags": _tags(subject)}
    if is_hub_id(subject.base_model):
        found |= {"base_model": subject.base_model, "base_model_relation": "finetune" if subject.merged else "adapter"}
    if datasets := list(dict.fromkeys(str(used["name"]) for used in subject.data if is_hub_id(used.get("name")))):
        found["datasets"] = datasets
    if results := [_result(each) for each in subject.evaluations if not each.seen]:
        found |= {"metrics": ["recall"], "model-index": [{"name": subject.entry.name, "results": results}]}
    return found


def _tags(subject: Subject) -> list[str]:
    tags = ["image-text-retrieval", "merged" if subject.merged else "adapter"]
    method = subject.method.get("name")
    if method == "mwa":
        tags.append("multiway-adapter")
    elif method:
        tags.append(str(method))
    if subject.backbone:
        tags.append(subject.backbone.partition("-")[0].partition(":")[0])
    return list(dict.fromkeys(tags))


def _result(evaluation: Evaluation) -> dict[str, Any]:
    facts = {"images": evaluation.images, "texts": evaluation.texts, "digest": f"sha256:{evaluation.digest}"}
    dataset = {
        "type": evaluation.data,
        "name": f"{evaluation.data} {evaluation.split}",
        "config": evaluation.protocol,
        "split": evaluation.split,
        "args": facts | {"zero_shot": evaluation.zero_shot},
    }
    metrics = [
        {
            "type": f"{direction}_{recall.lower().replace('@', '_at_')}",
            "name": f"{spelt} {recall}",
            "value": _number(value),
        }
        for direction, spelt in _DIRECTIONS.items()
        for recall in RECALLS
        if (value := getattr(evaluation, direction).get(recall)) is not None
    ]
    if evaluation.rsum is not None:
        metrics.append({"type": "rsum", "name": "RSUM", "value": _number(evaluation.rsum)})
    task = {"type": "image-text-retrieval", "name": "Image-text retrieval"}
    return {"task": task, "dataset": dataset, "metrics": metrics}


def _number(value: float) -> float:
    return round(float(value), 2)
