"""How likely a model finds a given text.

B batch, T tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_gemma.layers import TokenPositions
from keras_gemma.models.generation_requests import check_vocabulary
from keras_gemma.models.token_loss import log_probabilities

# Texts are read this many at a time, so that their logits fit beside the model.
_ROWS = 16


class Scoring:
    """`score` for a model with a `backbone` and a `preprocessor`."""

    def score(
        self,
        token_ids: Any,
        padding_mask: Any = None,
        scoring_mode: str = "logits",
        layer_intercept_fn: Callable[[Any, int], Any] | None = None,
        target_ids: Any = None,
    ) -> Any:
        """Logits or losses of ids; of strings, the log-probability of each of their tokens.

        Args:
            token_ids: ids, int (batch, length); or a list of strings (or one), scored as they
                are read after `<bos>`.
            padding_mask: as in the backbone; all ones if left out.
            scoring_mode: `"logits"`, float (batch, length, vocabulary), or `"loss"`, the
                cross-entropy of `target_ids` in nats, float (batch, length); 0 on padding.
            layer_intercept_fn: `(activations, index) -> activations`, given the embeddings
                (index -1) and the output of each decoder block (0, 1, …); what it returns goes
                on through the model.
            target_ids: the ids to predict, int (batch, length); needed for `"loss"`.

        Returns:
            A tensor; for strings a list of float32 arrays, one number per token of the text
            (without `<bos>`), in nats; for one string one array.
        """
        if isinstance(token_ids, str):
            return self._score_texts([token_ids])[0]
        if isinstance(token_ids, (list, tuple)) and token_ids and isinstance(token_ids[0], str):
            return self._score_texts(list(token_ids))
        if scoring_mode not in ("logits", "loss"):
            raise ValueError(f'scoring_mode must be "logits" or "loss", not {scoring_mode!r}.')
        if scoring_mode == "loss" and target_ids is None:
            raise ValueError('scoring_mode="loss" needs target_ids, the ids to predict.')
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids)
        positions = TokenPositions()(ops.cast(padding_mask, "int32"))
        intercept = {} if layer_intercept_fn is None else {"intercept": layer_intercept_fn}
        hidden, _ = self.backbone.stack.hidden_states(token_ids, positions, **intercept)
        logits = self.backbone.stack.logits(hidden)
        if scoring_mode == "logits":
            return logits
        losses = -log_probabilities(logits, ops.cast(target_ids, "int32"))
        return ops.where(positions.segment > 0, losses, 0.0)

    def _score_texts(self, texts):
        rows = [self._encode(text) for text in texts]
        for row in rows:
            check_vocabulary(self, row)
        scores = [None] * len(rows)
        # Rows of like length stand together, and little is padded.
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), _ROWS):
            chosen = order[start : start + _ROWS]
            for row, score in zip(chosen, self._score_rows([rows[row] for row in chosen])):
                scores[row] = score
        return scores

    def _score_rows(self, rows):
        width = max(map(len, rows))
        token_ids = np.zeros((len(rows), width), "int32")
        mask = np.zeros_like(token_ids)
        for place, row in enumerate(rows):
            token_ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        targets = np.roll(token_ids, -1, axis=1)
        losses = self.score(token_ids, mask, "loss", target_ids=targets)
        losses = ops.convert_to_numpy(losses).astype("float32")
        return [-loss[: len(row) - 1] for loss, row in zip(losses, rows)]
