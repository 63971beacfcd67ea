#pragma once

#include <cstdint>
#include <string>

namespace tessera {

// From the kernel's generator (getrandom): nobody can guess the next one.
uint64_t RandomBits64();

// 32 hexadecimal digits: 128 random bits.
std::string RandomRequestId();
inline std::string RandomTraceId() { return RandomRequestId(); }

}  // namespace tessera
