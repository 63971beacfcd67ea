#pragma once

#include <cstdint>

#include "model/step.h"

namespace tessera {

// Sizes the scheduler must respect. Fixed once the model is loaded.
struct ExecutorLimits {
  int num_pages = 0;         // KV pages in the pool
  int page_tokens = 64;      // tokens a page holds
  int max_batch_tokens = 0;  // rows a step may have
  int max_running = 0;       // slots: sequences that may hold pages at once
  int max_context = 0;       // tokens a sequence may reach, prompt and output together
  int max_samples = 0;       // sampled and scored rows a step may have
  int vocab_size = 0;
  int max_in_flight = 1;  // steps launched and not yet waited for: 1 or 2
};

using StepTicket = uint64_t;

// All that the engine knows of compute. Used by one thread.
// Production: ModelRunner. Tests: FakeExecutor (tests/support/fake_executor.h).
class Executor {
 public:
  virtual ~Executor() = default;

  virtual ExecutorLimits limits() const = 0;

  // Starts one step. The input is read before Launch returns. Steps run in launch order, so a
  // step may use pages and slots of one before it that is still in flight.
  virtual StepTicket Launch(const StepInput& input) = 0;

  // Waits for that step. Tickets are waited for in order, each once.
  virtual StepResult Wait(StepTicket ticket) = 0;
};

}  // namespace tessera
