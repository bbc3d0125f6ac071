"""The paper's two algorithms, said again as plainly as they can be: loops, an explicit inverse, torch.optim.

Shares with the package only the random draws, so that both see the same numbers.
"""

import torch
from torch.nn.functional import log_softmax

from convexdistill.seeds import child_seed, generator


def draws(n_target, n_base, batch, inner, epochs, seed):
    """(target rows, base rows) of every step."""
    for epoch in range(epochs):
        order = torch.randperm(n_target, generator=generator(seed, "target", epoch))
        base = generator(seed, "base examples", epoch)
        for start in range(0, n_target, batch):
            yield order[start : start + batch], torch.randperm(n_base, generator=base)[:inner]


def naive_restarts(errors, window):
    """The early-stopping rule over a whole list of errors: the lengths, and where it restarted."""
    lengths, restarts, start = [], [], 0
    best, best_at, waited = None, 0, 0
    for now in range(len(errors)):
        since = errors[start : now + 1]
        if len(since) < window:
            continue
        mean = sum(since[-window:])
        if best is None or mean < best:
            best, best_at, waited = mean, len(since), 0
        elif waited < window:
            waited += 1
        else:
            lengths.append(best_at)
            restarts.append(now)
            best, start, waited = None, now + 1, 0
    return lengths, restarts


def soft_loss(logits, labels):
    return -(labels * log_softmax(logits, 1)).sum(1).mean()


def simplex(labels):
    with torch.no_grad():
        labels.clamp_(0, 1)
        labels /= labels.sum(1, keepdim=True)


def record(errors, logits, truth):
    errors.append(100 * float((logits.argmax(1) != truth).sum()) / len(truth))


def ridge(
    build, images, target_images, target_labels, *, batch, inner, epochs, window, seed, start_at, frozen=False
):
    """Section "first order": labels, w (with its bias row), s, body weights and lengths after the last step."""
    lam, alpha = 1.0, 0.01
    labels = start_at.clone().requires_grad_()
    label_optimizer = torch.optim.Adam([labels], lr=1e-3)
    errors, lengths = [], []

    def start():
        body = build(child_seed(seed, "network", len(lengths))).body
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        return body, torch.optim.Adam(body.parameters(), lr=1e-3), scale, torch.optim.Adam([scale], lr=1e-2), 0.0

    body, body_optimizer, scale, scale_optimizer, w = start()
    for rows, base in draws(len(target_images), len(images), batch, inner, epochs, seed):
        x, y = images[base], labels[base]
        phi = torch.cat([body(x), torch.ones(len(x), 1, dtype=torch.float64)], 1)
        if frozen:
            phi = phi.detach()
        local = phi.T @ torch.inverse(phi @ phi.T + lam * torch.eye(len(x), dtype=torch.float64)) @ y
        w = (1 - alpha) * w + alpha * local
        with torch.no_grad():
            phi_t = torch.cat([body(target_images[rows]), torch.ones(len(rows), 1, dtype=torch.float64)], 1)
        logits = scale.detach() * phi_t @ w
        truth = target_labels[rows]
        outer = -log_softmax(logits, 1)[torch.arange(len(rows)), truth].mean()
        label_optimizer.zero_grad()
        labels.grad = torch.autograd.grad(outer, labels, retain_graph=True)[0]
        label_optimizer.step()
        simplex(labels)
        inner_loss = soft_loss(scale * torch.cat([body(x), torch.ones(len(x), 1)], 1) @ w, labels[base].detach())
        body_optimizer.zero_grad()
        scale_optimizer.zero_grad()
        inner_loss.backward()
        if not frozen:
            body_optimizer.step()
        scale_optimizer.step()
        w = w.detach()
        record(errors, logits, truth)
        if len(found := naive_restarts(errors, window)[0]) > len(lengths):
            lengths = found
            body, body_optimizer, scale, scale_optimizer, w = start()
    return labels.detach(), w, scale.detach(), body.state_dict(), lengths


def second_order(
    build, images, target_images, target_labels, *, batch, inner, epochs, window, seed, start_at, inner_steps=1
):
    """Section "second order", with fast weights made by hand: labels, network weights and lengths."""
    eta = 0.01
    labels = start_at.clone().requires_grad_()
    label_optimizer = torch.optim.Adam([labels], lr=1e-3)
    errors, lengths = [], []

    def start():
        network = build(child_seed(seed, "network", len(lengths)))
        return network, torch.optim.Adam(network.parameters(), lr=1e-3)

    network, optimizer = start()
    for rows, base in draws(len(target_images), len(images), batch, inner, epochs, seed):
        x, y = images[base], labels[base]
        names = [name for name, _ in network.named_parameters()]
        slow = dict(network.named_parameters())
        fast, first = dict(slow), None
        for _ in range(inner_steps):
            loss = soft_loss(torch.func.functional_call(network, fast, (x,)), y)
            gradients = torch.autograd.grad(loss, [fast[name] for name in names], create_graph=True)
            first = first or gradients
            fast = {name: fast[name] - eta * g for name, g in zip(names, gradients, strict=True)}
        logits = torch.func.functional_call(network, fast, (target_images[rows],))
        truth = target_labels[rows]
        outer = -log_softmax(logits, 1)[torch.arange(len(rows)), truth].mean()
        labels.grad = torch.autograd.grad(outer, labels)[0]
        label_optimizer.step()
        simplex(labels)
        for name, gradient in zip(names, first, strict=True):
            slow[name].grad = gradient.detach()
        optimizer.step()
        record(errors, logits, truth)
        if len(found := naive_restarts(errors, window)[0]) > len(lengths):
            lengths = found
            network, optimizer = start()
    return labels.detach(), network.state_dict(), lengths
