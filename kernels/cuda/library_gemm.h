// LibraryGemm: cuBLASLt, and what it was found to do best for each shape.
#pragma once

namespace polystrate::cuda {

class LibraryGemm {};

}  // namespace polystrate::cuda
