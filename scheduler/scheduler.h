#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/executor.h"
#include "scheduler/request.h"

namespace tessera {

struct SchedulerOptions {
  int max_waiting_requests = 1024;
  int64_t max_waiting_prompt_tokens = 1 << 20;
  bool prefix_cache = true;
};

struct SchedulerStats {
  int num_waiting_requests = 0;
  int num_running_sequences = 0;
  int num_parked_sequences = 0;
  int num_pages = 0;
  int num_pages_used = 0;    // held by a sequence
  int num_pages_cached = 0;  // free to take, but still holding a reusable prefix
  int64_t waiting_prompt_tokens = 0;
  // Since start:
  int64_t num_preemptions = 0;
  int64_t recomputed_tokens = 0;
  int64_t prefix_queried_tokens = 0;
  int64_t prefix_hit_tokens = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
};

}  // namespace tessera
