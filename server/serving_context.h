#pragma once

#include <atomic>
#include <cstddef>
#include <string>

#include "scheduler/engine.h"
#include "server/authenticator.h"
#include "server/call_registry.h"
#include "server/load_report.h"
#include "server/metrics.h"
#include "server/request_parser.h"
#include "server/tenant_quotas.h"
#include "server/tenant_table.h"
#include "server/tracer.h"

namespace tessera {

// What a client may know of the model and the daemon; filled in by main, or by a test.
struct ServedModel {
  std::string name;
  std::string architecture;
  std::string weight_format;  // of most weights
  std::string weights_hash;
  std::string fingerprint;  // numerics version, device class, weights hash
  std::string device;
  uint64_t parameter_count = 0;
  uint64_t weights_bytes = 0;  // of the tensors in the file
};

// What all calls share. Owned by Server; outlives them. Members are thread-safe or do not change.
struct ServingContext {
  Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const RequestParser* parser = nullptr;
  Metrics* metrics = nullptr;
  CallRegistry* calls = nullptr;
  TenantTable* tenants = nullptr;
  TenantQuotas* quotas = nullptr;
  const Authenticator* authenticator = nullptr;
  Tracer* tracer = nullptr;               // null: no spans
  LoadReporter* load_reporter = nullptr;  // null: answers carry no load reports

  ServedModel model;
  size_t max_message_bytes = 0;
  int max_waiting = 0;
  int64_t max_waiting_prompt_tokens = 0;
  int max_open_generations = 0;
  std::atomic<int> num_open_generations{0};
  std::atomic<RequestId> next_request_id{1};
};

}  // namespace tessera
