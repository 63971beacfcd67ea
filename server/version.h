#pragma once

namespace tessera {

inline constexpr char kTesseraVersion[] = TESSERA_VERSION;  // from CMakeLists.txt

}  // namespace tessera
