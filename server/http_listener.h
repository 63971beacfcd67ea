#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/host_port.h"

struct mg_context;

namespace tessera {

struct HttpReply {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// A small HTTP/1.1 listener for pages that machines read: metrics and probes. GET and HEAD only;
// other paths are 404. Serves from a few threads of its own until it dies.
class HttpListener {
 public:
  using Page = std::function<HttpReply()>;  // called on the listener's threads

  // UNAVAILABLE where the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Start(const HostPort& address,
                                                             std::map<std::string, Page> pages);
  ~HttpListener();
  HttpListener(const HttpListener&) = delete;
  HttpListener& operator=(const HttpListener&) = delete;

  const HostPort& address() const { return address_; }  // with the port that was given out

  HttpReply Reply(const std::string& method, const std::string& path) const;

 private:
  void Stop();

  explicit HttpListener(std::map<std::string, Page> pages) : pages_(std::move(pages)) {}

  const std::map<std::string, Page> pages_;
  HostPort address_;
  std::string start_error_;  // what civetweb logged while it started
  mg_context* context_ = nullptr;
};

}  // namespace tessera
