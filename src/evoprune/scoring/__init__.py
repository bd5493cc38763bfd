import torch, torch.nn.functional as F
class DataScore: pass
class Accuracy(DataScore):
    def __init__(s, inputs, targets): s.inputs, s.targets = inputs, targets
    samples = property(lambda s: len(s.targets))
    def out(s, model):
        mode=model.training; model.eval()
        with torch.no_grad(): o=torch.cat([model(b) for b in s.inputs.split(500)])
        model.train(mode); return o
    def __call__(s, model): return float((s.out(model).argmax(1)==s.targets).double().mean())
def as_score(x): return x
