"""A script as people write it for whatever machine there is, with dropout on the device."""

import torch
from optuna.distributions import FloatDistribution
from torch.utils.data import DataLoader, TensorDataset

import pbt_flow

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
inputs = torch.randn(400, 5, generator=torch.Generator().manual_seed(7))
targets = inputs.sum(1, keepdim=True)
loader = DataLoader(TensorDataset(inputs[:300], targets[:300]), batch_size=10, shuffle=True)
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
model.to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
space = {"lr": FloatDistribution(1e-3, 0.1, log=True)}


def held_out():
    model.eval()
    with torch.no_grad():
        error = (model(inputs[300:].to(device)) - targets[300:].to(device)).square().mean().item()
    model.train()
    return error


pbt = pbt_flow.join(
    space, held_out, interval=10, direction="minimize", model=model, optimizer=optimizer
)
for x, y in pbt.batches(loader):
    loss = (model(x.to(device)) - y.to(device)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("held out", held_out(), "on", device)
