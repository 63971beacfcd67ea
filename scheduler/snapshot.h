#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/sequence.h"

namespace tessera {

enum class SequencePhase : uint8_t { kWaiting, kPrefill, kDecode, kParked, kPreempted };

// What Explain says of one sequence; mirrors SequenceState of proto/tessera/v1/control.proto.
struct SequenceSnapshot {
  RequestId request = 0;
  int index = 0;
  SequencePhase phase = SequencePhase::kWaiting;
  WaitReason wait_reason = WaitReason::kNone;
  int prompt_tokens = 0;
  int computed_tokens = 0;
  int output_tokens = 0;
  int num_pages = 0;
  int num_preemptions = 0;
  int priority = 0;
  TenantId tenant = 0;
  TimeNs waited = 0;          // since it arrived, or was preempted; 0 while it runs
  int position_in_queue = 0;  // 0: runs next
};

}  // namespace tessera
