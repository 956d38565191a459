#include "core/handle.hpp"

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace unstuck {

namespace {

#if defined(__linux__)
// The library is there already: torch has been imported.
void* torch_library() { return dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD); }
void* symbol(void* library, const char* name) { return dlsym(library, name); }
#else
void* torch_library() { return nullptr; }
void* symbol(void*, const char*) { return nullptr; }
#endif

template <class Function>
bool find(void* library, const char* name, Function** f) {
  *f = reinterpret_cast<Function*>(symbol(library, name));
  return *f != nullptr;
}

}  // namespace

void Handle::init(const py::object& torch, bool wanted) {
  static void* const library = torch_library();
  Api& f = api();
  f.make = nullptr;
  if (!wanted || !library) return;
  if (!(find(library, "aoti_torch_get_data_ptr", &f.data) &&
        find(library, "aoti_torch_get_dtype", &f.dtype) &&
        find(library, "aoti_torch_get_dim", &f.ndim) &&
        find(library, "aoti_torch_get_sizes", &f.shape) &&
        find(library, "aoti_torch_get_strides", &f.strides) &&
        find(library, "aoti_torch_delete_tensor_object", &f.free)))
    return;
  try {
    f.make = py::object(torch.attr("_C").attr("_aoti").attr("unsafe_alloc_void_ptrs_from_tensors"))
                 .release()
                 .ptr();
  } catch (py::error_already_set&) {  // an older or newer torch, without it
  }
}

std::vector<Handle> Handle::of(const py::list& tensors) {
  std::vector<Handle> handles(tensors.size());
  if (!api().make) return handles;
  const py::list capsules = py::handle(api().make)(tensors);
  for (size_t i = 0; i < handles.size() && i < capsules.size(); ++i) {
    PyObject* capsule = py::object(capsules[i]).ptr();
    handles[i].tensor_ = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
    if (!handles[i].tensor_) throw py::error_already_set();
  }
  return handles;
}

}  // namespace unstuck
