"""Classifiers and embedders are trained with `remat` as without, and refuse what nothing would become of."""

import keras
import numpy as np
import pytest
from conftest import SIZES, close

from keras_gemma import (
    GemmaBackbone,
    GemmaTextClassifier,
    GemmaTextClassifierPreprocessor,
    GemmaTextEmbedder,
    GemmaTextEmbedderPreprocessor,
)
from keras_gemma.optimizers import AdamW

TEXTS = ["The cat sat.", "A dog ran away.", "Birds sing.", "Rain."]
PAIRS = {"queries": ["cat", "dog", "birds", "rain"], "documents": TEXTS}


def backbone(tokenizer):
    keras.utils.set_random_seed(0)
    sizes = {**SIZES, "num_layers": 1, "vocabulary_size": tokenizer.vocabulary_size()}
    return GemmaBackbone(**sizes)


def embedder(tokenizer, **options):
    preprocessor = GemmaTextEmbedderPreprocessor(tokenizer, 16)
    return GemmaTextEmbedder(backbone(tokenizer), preprocessor, **options)


def classifier(tokenizer, num_classes=2, **options):
    preprocessor = GemmaTextClassifierPreprocessor(tokenizer, 16)
    return GemmaTextClassifier(backbone(tokenizer), num_classes, preprocessor, **options)


@pytest.mark.parametrize("make, data", [(embedder, (PAIRS,)), (classifier, (TEXTS, [0, 1, 1, 0]))])
def test_remat_changes_no_number(make, data, tokenizer, tmp_path):
    losses = []
    for remat in (False, True):
        model = make(tokenizer)
        model.compile(optimizer=AdamW(1e-2), remat=remat)
        assert [block.remat for block in model.backbone.transformer_layers] == [remat]
        losses.append(model.fit(*data, epochs=3, verbose=0, shuffle=False).history["loss"])
    close(losses[1], losses[0], 1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.remat and again.backbone.transformer_layers[0].remat


@pytest.mark.once
def test_arguments_that_nobody_knows_are_refused(tokenizer, tmp_path):
    with pytest.raises(TypeError, match="takes no argument 'droput'.*num_classes, activation"):
        classifier(tokenizer, droput=0.5)
    embedder(tokenizer).save_to_preset(tmp_path)
    for kind, more in ((GemmaTextEmbedder, {}), (GemmaTextClassifier, {"num_classes": 2})):
        with pytest.raises(TypeError, match="takes no argument 'pooling'"):
            kind.from_preset(tmp_path, pooling="mean", **more)
    # Those of the backbone are known as well, and Keras's.
    again = GemmaTextEmbedder.from_preset(tmp_path, name="x", layer_norm_epsilon=1e-5)
    assert (again.name, again.backbone.layer_norm_epsilon) == ("x", 1e-5)


@pytest.mark.once
@pytest.mark.parametrize("make", [embedder, classifier])
def test_texts_without_labels_and_lists_without_texts_are_told(make, tokenizer):
    model = make(tokenizer)
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"Texts came without labels.*fit\(texts, labels\)"):
            call(TEXTS)
    with pytest.raises(ValueError, match="There is no text"):
        model.predict([])
    with pytest.raises(TypeError, match="at position 0, not NoneType"):
        model.predict([None])


@pytest.mark.once
def test_labels_may_be_bools_and_whole_floats(tokenizer):
    model = classifier(tokenizer, np.int64(2), hidden_dim=np.int64(3))
    assert type(model.num_classes) is type(model.hidden_dim) is int
    whole = model.evaluate(TEXTS, [0, 1, 1, 0], verbose=0)
    for labels in ([False, True, True, False], [0.0, 1.0, 1.0, 0.0], np.float32([0, 1, 1, 0])):
        assert model.evaluate(TEXTS, labels, verbose=0) == whole
    for wrong in (0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"not such as \[{wrong}\] \(float64\)"):
            model.fit(TEXTS, [0, 1.0, wrong, 0])
    with pytest.raises(ValueError, match=r"from 0 to 1; label 1 is 2\.0"):
        model.fit(TEXTS, [0, 2.0, 1, 0])
