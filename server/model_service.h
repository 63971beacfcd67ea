#pragma once

#include "server/serving_context.h"
#include "tessera/v1/generation.grpc.pb.h"

namespace tessera {

// What clients may ask without generating: tokens of a text and back, the model, the daemon's
// limits.
class ModelService final
    : public v1::ModelService::WithRawCallbackMethod_Tokenize<v1::ModelService::CallbackService> {
 public:
  // *serving outlives the service.
  explicit ModelService(const ServingContext* serving) : serving_(serving) {}

 private:
  using Base = v1::ModelService::WithRawCallbackMethod_Tokenize<v1::ModelService::CallbackService>;
  using Base::Tokenize;

  absl::Status CheckCaller(const grpc::CallbackServerContext& context) const;

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

  const ServingContext* const serving_;
};

}  // namespace tessera
