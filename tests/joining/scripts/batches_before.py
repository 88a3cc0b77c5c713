"""One pass over noisy data, batch by batch, without any function."""

import torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
data = torch.Generator().manual_seed(7)
inputs = torch.randn(400, 5, generator=data)
targets = inputs.sum(1, keepdim=True) + 0.1 * torch.randn(400, 1, generator=data)
loader = DataLoader(TensorDataset(inputs[:300], targets[:300]), batch_size=10, shuffle=True)
model = torch.nn.Linear(5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
for number, (x, y) in enumerate(loader, 1):
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if number % 10 == 0:
        with torch.no_grad():
            print("held out", (model(inputs[300:]) - targets[300:]).square().mean().item())
print("last batch", loss.item())
