import torch, torch.nn.functional as F
from evoprune.core import Scores, weight_of
class Ref:
    def __init__(s, model, score): s.model, s.score, s.samples = model, score, score.samples
    def __call__(s, plans, floor=-float("inf")):
        P=len(next(iter(plans.values()))); a=[];l=[]
        ws={n:weight_of(s.model,n) for n in plans}; keep={n:w.detach().clone() for n,w in ws.items()}
        with torch.no_grad():
            for p in range(P):
                for n,w in ws.items(): w.copy_(keep[n]*plans[n][p])
                o=s.score.out(s.model); a.append((o.argmax(1)==s.score.targets).double().mean()); l.append(F.cross_entropy(o,s.score.targets).double())
            for n,w in ws.items(): w.copy_(keep[n])
        return Scores(torch.stack(a),torch.stack(l),torch.ones(P,dtype=torch.bool),P*s.samples)
def make_evaluator(model, score, layers, **kw): return Ref(model, score)
