"""What Green-AI studies compare with plain training, each as a setting and so as a level of a sweep.

    adapter      train.lora_rank: a few low-rank matrices train, the weights stay frozen (peft)
    pruning      model.prune: the smallest weights are zero and stay zero
    distilling   model.distill_from: a frozen teacher's distribution is part of the target
    teachers     where that teacher comes from: loaded, or trained once on the sweep's data
    fp8          train.precision: fp8: products of the blocks in fp8
    quantizing   eval.quantize: linear layers in int8 or int4 for a second evaluation after training
    applying     what a trial's settings do to its model, and what that costs in FLOPs

Each says what it changes and what it does not: pruned weights are multiplied all the same, int4 is simulated.
"""
