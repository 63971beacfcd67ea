#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>

#include "server/generation_session.h"

namespace tessera {

// One GenerateStream call: writes a session's messages, one at a time. Lives until gRPC calls
// OnDone and the stream has released its writer, whichever is later.
class StreamingCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public DeltaWriter {
 public:
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(ServingContext* serving,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer& request);

  StreamingCall(ServingContext* serving, grpc::CallbackServerContext* context);

  void OnDeltasReady() override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void WriteNextOnceBegun();
  void WriteNext();

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<GenerationSession> session_;
  std::shared_ptr<StreamingCall> self_;  // gRPC's reference, dropped in OnDone
  grpc::ByteBuffer writing_;             // gRPC's while a write is in flight
  // The first deltas may be ready while the first message is still being written: whichever comes
  // second goes on. From then on the stream's contract keeps writes apart.
  std::atomic<int> num_beginnings_{0};
};

// One Generate call: collects a session's messages and sends their sum.
class UnaryCall final : public grpc::ServerUnaryReactor, public DeltaWriter {
 public:
  static grpc::ServerUnaryReactor* Start(ServingContext* serving,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer& request,
                                         grpc::ByteBuffer* response);

  UnaryCall(ServingContext* serving, grpc::CallbackServerContext* context,
            grpc::ByteBuffer* response);

  void OnDeltasReady() override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void CollectOnceBegun();
  void Add(v1::GenerateResponse&& message);

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  const std::shared_ptr<GenerationSession> session_;
  std::shared_ptr<UnaryCall> self_;  // gRPC's reference, dropped in OnDone
  v1::GenerateResponse sum_;         // not more than the largest message
  size_t sum_bytes_ = 0;
  std::atomic<int> num_beginnings_{0};  // as in StreamingCall: the first deltas may outrun Start
};

}  // namespace tessera
