#pragma once

#include <map>
#include <optional>
#include <utility>

#include "base/mutex.h"
#include "server/generation_stream.h"

namespace tessera {

// Takes a stream's deltas on a thread of its own, one batch at a time, as a protocol does whose
// writes complete on its own threads.
class PullingReader final : public DeltaWriter {
 public:
  void OnDeltasReady() override EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    called_ = true;
    changed_.NotifyAll();
  }

  // Blocks until a batch can be taken. False after the last.
  bool ReadOne(GenerationStream* stream) {
    while (!last_) {
      if (!std::exchange(may_take_, true)) AwaitCall();
      std::optional<DeltaBatch> batch = stream->TakeDeltas();
      if (batch) return Keep(*std::move(batch));
      may_take_ = false;
    }
    return false;
  }
  void ReadToEnd(GenerationStream* stream) {
    while (ReadOne(stream)) {
    }
  }

  // Blocks until the stream has called.
  void AwaitCall() EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    while (!called_) changed_.Wait(&mutex_);
    called_ = false;
  }

  std::map<int, Delta> read;  // everything so far, by sequence

 private:
  bool Keep(DeltaBatch batch) {
    last_ = batch.last;
    for (Delta& delta : batch.deltas) {
      const auto [it, added] = read.try_emplace(delta.index);
      it->second.index = delta.index;
      AppendDelta(std::move(delta), &it->second);
    }
    return true;
  }

  Mutex mutex_;
  CondVar changed_;
  bool called_ GUARDED_BY(mutex_) = false;
  bool may_take_ = false;
  bool last_ = false;
};

}  // namespace tessera
