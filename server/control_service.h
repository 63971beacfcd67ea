#pragma once

#include <functional>
#include <optional>

#include "server/serving_context.h"
#include "tessera/v1/control.grpc.pb.h"

namespace tessera {

// Abort, Explain and Drain.
class ControlService final : public v1::ControlService::CallbackService {
 public:
  using DrainRequester = std::function<void(std::optional<double> timeout_seconds)>;

  // *serving outlives the service. `request_drain` must not block.
  ControlService(const ServingContext* serving, DrainRequester request_drain);

 private:
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;
  grpc::ServerUnaryReactor* Explain(grpc::CallbackServerContext* context,
                                    const v1::ExplainRequest* request,
                                    v1::ExplainResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

  void FillExplanation(const SchedulerSnapshot& snapshot, const std::string& wanted_request_id,
                       v1::ExplainResponse* response) const;
  void FillSequence(const SequenceSnapshot& sequence, v1::SequenceState* state) const;

  const ServingContext* const serving_;
  const DrainRequester request_drain_;
};

}  // namespace tessera
