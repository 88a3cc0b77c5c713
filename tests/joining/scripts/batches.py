"""One pass over noisy data, batch by batch, without any function."""

import torch
from optuna.distributions import FloatDistribution
from torch.utils.data import DataLoader, TensorDataset

import pbt_flow

torch.manual_seed(0)
data = torch.Generator().manual_seed(7)
inputs = torch.randn(400, 5, generator=data)
targets = inputs.sum(1, keepdim=True) + 0.1 * torch.randn(400, 1, generator=data)
loader = DataLoader(TensorDataset(inputs[:300], targets[:300]), batch_size=10, shuffle=True)
model = torch.nn.Linear(5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
space = {"lr": FloatDistribution(1e-3, 0.1, log=True), "clip": FloatDistribution(0.1, 10, log=True)}
space["weight_decay"] = FloatDistribution(1e-4, 0.1, log=True)
terms = {"interval": 10, "direction": "minimize", "evaluate_alone": False}
objects = {"model": model, "optimizer": optimizer}
held_out = lambda: (model(inputs[300:]) - targets[300:]).square().mean().item()  # noqa: E731
pbt = pbt_flow.join(space, held_out, **terms, **objects)
for number, (x, y) in enumerate(pbt.batches(loader), 1):
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), pbt.get("clip", 1.0))
    optimizer.step()
    if number % 10 == 0:
        with torch.no_grad():
            print("held out", (model(inputs[300:]) - targets[300:]).square().mean().item())
print("last batch", loss.item())
