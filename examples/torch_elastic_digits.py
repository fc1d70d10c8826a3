"""The training of torch_digits.py while ranks come and go, or die.

    horovodrun -np 2 --min-np 1 --max-np 3 --host-discovery-script ./discover.sh \\
        python examples/torch_elastic_digits.py --bits 4

discover.sh prints who may take part, a line like ``host1:2`` for each host, and is asked every second. Compression
needs nothing for it: in a new world the ranks agree anew, and share the integers' levels among as many as there are.
"""

from __future__ import annotations

import time
from argparse import Namespace

import digits
import horovod.torch as hvd
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch_digits import accuracy_of, make_data, make_model, make_optimizer
from tqdm import tqdm

from hvd_gqsgd.torch import traffic

#: Batches that are lost, at most, when a rank dies.
COMMIT_EVERY = 10


@hvd.elastic.run
def train(state: hvd.elastic.TorchState, args: Namespace, data: TensorDataset) -> int:
    """Train to the end. Horovod calls this anew in every world, with the state as it was committed last.

    Returns how many steps the last world took; ``traffic`` has what this rank sent in them.
    """
    if state.ranks != hvd.size():
        state.ranks = hvd.size()
        if hvd.rank() == 0:
            print(f"world: {hvd.size()} ranks from epoch {state.epoch}, batch {state.batch}")
    for group in state.optimizer.param_groups:
        group["lr"] = args.lr * hvd.size()
    # Where ranks have only left, Horovod does not deal out the samples again.
    state.sampler.reset()
    batches = DataLoader(data, batch_size=args.batch_size, sampler=state.sampler, drop_last=True)

    steps = 0
    traffic.reset()
    with tqdm(total=args.epochs, initial=state.epoch, desc=args.compression, disable=hvd.rank() != 0) as bar:
        while state.epoch < args.epochs:
            for images, labels in batches:
                # Here and not after the epoch's last batch: what is left to deal out is enough for every rank.
                if state.batch % COMMIT_EVERY == 0:
                    state.commit()
                state.optimizer.zero_grad()
                loss = cross_entropy(state.model(images), labels)
                loss.backward()
                state.optimizer.step()
                state.sampler.record_batch(state.batch, args.batch_size)
                state.batch += 1
                steps += 1
            state.epoch += 1
            state.batch = 0
            state.sampler.set_epoch(state.epoch)
            bar.update()
    return steps


def main() -> None:
    args = digits.parse_arguments(__doc__)
    hvd.init()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # several ranks share this machine

    data, test = make_data(args.seed)
    model = make_model()
    state = hvd.elastic.TorchState(
        model=model,
        optimizer=make_optimizer(args, model),
        sampler=hvd.elastic.ElasticSampler(data, seed=args.seed),
        epoch=0,
        batch=0,
        ranks=0,
    )
    started = time.perf_counter()
    steps = train(state, args, data)

    if hvd.rank() == 0:
        digits.report(
            args,
            ranks=hvd.size(),
            accuracy=accuracy_of(model, test),
            dense_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
            sent_bytes=traffic.sent_bytes // max(steps, 1),
            seconds=time.perf_counter() - started,
        )


if __name__ == "__main__":
    main()
