#pragma once

#include <vector>

// Kernels with one mistake each, and the same kernels without it, on the simulated device.

namespace tessera::planted {

// True if the result is what a right kernel gives; for those after the first of each group under
// some seeds at least it is not.
bool BlockExchange();
bool BlockExchangeWithoutBarrierBeforeRead();
bool BlockExchangeWithoutBarrierAfterRead();

bool WarpBroadcast();
bool WarpBroadcastWithoutSyncwarp();

bool Pipeline();
bool PipelineWaitsForTooFew();
bool PipelineWithoutBarrierAfterWait();
bool PipelineWithoutBarrierBeforeReuse();

// These abort.
void EndWithoutWait();
void DivergentShuffle();  // two lines
void HalfWarpShuffle();   // the other half waits elsewhere
void AbsentSource();      // a lane that takes no part
void DivergentBarrier();  // two lines
void PartialWarpMma();    // one lane has left
void UnbalancedNamedBarrier();
void MisalignedRow();
void ForeignRow();  // ldmatrix from global memory

// `past` elements beyond the last; 0 is right.
void DynamicSharedStore(int past);
void StaticSharedStore(int past);
// Into an array of 25.
void GlobalStore(int index);

}  // namespace tessera::planted
