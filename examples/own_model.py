"""A PyTorch model of your own: predict in this process, export it, and serve the file.

python examples/own_model.py && penstock serve wine.onnx
"""

import torch
from sklearn.datasets import load_wine

from penstock import Predictor

samples, classes = (torch.as_tensor(part) for part in load_wine(return_X_y=True))
x = samples.float()
torch.manual_seed(0)
scores = torch.nn.Sequential(torch.nn.BatchNorm1d(13), torch.nn.Linear(13, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
optimizer = torch.optim.Adam(scores.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(scores(x), classes.long()).backward()
    optimizer.step()

model = torch.nn.Sequential(scores, torch.nn.Softmax(dim=1)).eval()
answer = Predictor(model, example_input=x[:1]).predict(x[0].tolist())
print(f"predicted class {answer.predictions[0]}, true class {int(classes[0])}")
torch.onnx.export(
    model, (x[:2],), "wine.onnx", input_names=["features"], output_names=["probabilities"],
    dynamic_shapes=({0: "batch"},), verbose=False,
)  # fmt: skip
print(f"from the file: class {Predictor('wine.onnx').predict(x[0].tolist()).predictions[0]}")
