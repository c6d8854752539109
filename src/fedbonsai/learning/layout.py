"""Read the layout of a module: names, shapes, what can be pruned, and where its neurons are."""

from torch import nn

from fedbonsai.core.layout import Layout, Slot, Units

_GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
_ROWS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layout_of(module: nn.Module) -> Layout:
    """Describe the tensors of ``module``: parameters first, then floating-point buffers.

    Every parameter with two or more dimensions is prunable. Neurons are the rows of linear layers, the filters of
    convolutions and the hidden units of recurrent layers (with all their gates); those of the last such layer are
    the outputs of the network and not listed. Integer buffers (batch norm's counter) are no part of the model.

    Examples:
        >>> layout = layout_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> layout.prunable, layout.slots[0].units
        (('0.weight', '2.weight'), Units(group='0', count=3, repeats=1))
    """
    units = _units(module)
    slots = [
        Slot(name, tuple(one.shape), prunable=one.dim() >= 2, units=units.get(name))
        for name, one in module.named_parameters()
    ]
    slots += [
        Slot(name, tuple(one.shape), buffer=True)
        for name, one in module.named_buffers()
        if one.is_floating_point() and name in module.state_dict()
    ]
    return Layout(tuple(slots))


def _units(module: nn.Module) -> dict[str, Units]:
    # A shared parameter has one name, so that both of its owners are seen to use it.
    names = {id(one): name for name, one in module.named_parameters()}
    found: dict[str, dict[str, Units]] = {}
    for path, one in module.named_modules():
        prefix = f"{path}." if path else ""
        own = {name: names[id(parameter)] for name, parameter in one.named_parameters(recurse=False)}
        if isinstance(one, _ROWS):
            found[path] = dict.fromkeys(own.values(), Units(path, one.weight.shape[0]))
        gates = _GATES.get(type(one))
        if gates is not None and isinstance(one, nn.RNNBase) and not one.proj_size:
            found[path] = {
                shared: Units(f"{prefix}{name.rsplit('_l', 1)[1]}", one.hidden_size, gates)
                for name, shared in own.items()
            }
    outputs = found.popitem()[1] if found else {}
    return {name: units for layer in found.values() for name, units in layer.items() if name not in outputs}
