"""The table's optimizers, one step for each unique id of a batch on the sum ``g`` of its gradients.

All in float32, in the order of operations written here (``monolith.tables.reference`` is the same in NumPy, bit by
bit). ``weight_decay`` d is L2 in every one: ``g += d * w`` before anything else, as in torch's optimizers.

========================  ==========================================================  ==========================
kind                      step                                                        state, in float32 words
========================  ==========================================================  ==========================
``SGD``                   ``w -= lr * g``                                             none
``Adagrad``               ``n += g * g;  w -= lr * g / (sqrt(n) + eps)``              n: dim
``RowWiseAdagrad``        ``n += sum(g * g) / dim;  w -= lr / (sqrt(n) + eps) * g``   n: 1
``Adam``                  ``m = b1 * m + (1 - b1) * g``                               m: dim, v: dim,
                          ``v = b2 * v + (1 - b2) * (g * g)``                         t: 1 (an unsigned integer)
                          ``w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)``
========================  ==========================================================  ==========================

The sum of squares is taken over 16 lanes (column i goes to lane i mod 16, in order), then lanes pairwise: 8, 4, 2, 1.
Adam's ``t`` counts the steps of the row, not of the table, so a row that arrives late has its full bias correction;
the powers are taken in float64 by squaring, and ``lr / (1 - b1^t)`` and ``sqrt(1 - b2^t)`` are rounded to float32 once.
"""

from monolith.config.table import SGD, Adagrad, Adam, Optimizer, RowWiseAdagrad

__all__ = ["SGD", "Adagrad", "Adam", "Optimizer", "RowWiseAdagrad"]
