"""A classifier has as many labels as its head has rows."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mergebuild.configuration.labels import Labelled, labelled

CLASS = {"architectures": ["BertForSequenceClassification"]}
THREE = {"id2label": {"0": "no", "1": "maybe", "2": "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}


@pytest.mark.parametrize("name", ["score.weight", "classifier.weight", "classifier.out_proj.weight"])
def test_labels_are_those_of_the_model_whose_head_has_as_many(name: str) -> None:
    found = labelled({**CLASS, "num_labels": 2}, {name: (3, 8)}, {**CLASS, **THREE})
    assert found == Labelled({("id2label",): THREE["id2label"], ("label2id",): THREE["label2id"], ("num_labels",): 3})


def test_labels_that_nobody_names_are_numbered_and_told_of() -> None:
    found = labelled({**CLASS, **THREE}, {"score.weight": (2, 8)}, {**CLASS, **THREE})
    assert found.changes == {
        ("id2label",): {"0": "LABEL_0", "1": "LABEL_1"},
        ("label2id",): {"LABEL_0": 0, "LABEL_1": 1},
    }
    assert "2 labels" in found.notice


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        ({**CLASS, **THREE}, {"score.weight": (3, 8)}),
        (CLASS, {"score.weight": (2, 8)}),
        ({**CLASS, "num_labels": 5}, {"score.weight": (5, 8)}),
        ({**CLASS, **THREE}, {"lm_head.weight": (9, 8)}),
        ({"architectures": ["LlamaForCausalLM"]}, {"score.weight": (9, 8)}),
        ({}, {"classifier.weight": (9, 8)}),
    ],
)
def test_what_fits_or_is_of_no_classifier_stays(
    config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    assert labelled(config, shapes, config) == Labelled({})
