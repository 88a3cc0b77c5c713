"""scikit-learn: a linear classifier by partial_fit."""

import numpy as np
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

import pbt_flow

x, y = load_digits(return_X_y=True)
x = x / 16
model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, random_state=0)
rng = np.random.default_rng(0)
space = {name: FloatDistribution(1e-6, 1.0, log=True) for name in ("eta0", "alpha")}
score = lambda: model.score(x[1200:], y[1200:])  # noqa: E731
pbt = pbt_flow.join(space, score, evaluate_alone=False, model=model, rng=rng)
pbt.into(model)
for epoch in pbt.steps(range(4)):
    for rows in np.array_split(rng.permutation(1200), 40):
        model.partial_fit(x[rows], y[rows], classes=np.arange(10))
    print(epoch, model.score(x[1200:], y[1200:]))
