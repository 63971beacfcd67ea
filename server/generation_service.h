#pragma once

#include "server/serving_context.h"
#include "tessera/v1/generation.grpc.pb.h"

namespace tessera {

// Generate and GenerateStream. Each call is an object of its own (server/generation_call.h).
class GenerationService final : public v1::GenerationService::WithRawCallbackMethod_Generate<
                                    v1::GenerationService::WithRawCallbackMethod_GenerateStream<
                                        v1::GenerationService::Service>> {
 public:
  // *serving outlives the service.
  explicit GenerationService(ServingContext* serving) : serving_(serving) {}

 private:
  using Raw = v1::GenerationService::WithRawCallbackMethod_Generate<
      v1::GenerationService::WithRawCallbackMethod_GenerateStream<v1::GenerationService::Service>>;
  using Raw::Generate;
  using Raw::GenerateStream;

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;

  ServingContext* const serving_;
};

}  // namespace tessera
