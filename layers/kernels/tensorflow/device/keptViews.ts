import {keptFor} from '../../keptFor.ts';
import type {Handle, TensorFlowBackend} from './tensorflowBackend.ts';

/**
 * Makes a value from a tensor once and keeps it as long as the tensor: for views, which take no memory but cost an op
 * each.
 *
 * @param of the tensor's handle; when the binding frees it, its views go too
 * @param name name of the view among those of `of`
 * @param make returns a handle that nothing else frees
 */
export function keptView(backend: TensorFlowBackend, of: Handle, name: string, make: () => Handle): Handle {
  const views = viewsOf(backend);
  const own = views.get(of.id) ?? new Map<string, Handle>();
  const known = own.get(name);
  if (known) return known;
  const view = make();
  views.set(of.id, own.set(name, view));
  return view;
}

/** The views of each handle, by its id, freed when the binding frees the handle. */
const viewsOf = keptFor((backend: TensorFlowBackend) => {
  const {binding} = backend;
  const views = new Map<number, Map<string, Handle>>();
  const deleteTensor = (id: number): void => {
    binding.deleteTensor(id);
    const own = views.get(id);
    if (!own) return;
    views.delete(id);
    for (const view of own.values()) binding.deleteTensor(view.id);
  };
  backend.binding = Object.create(binding, {deleteTensor: {value: deleteTensor}}); // the addon's own property is read-only
  return views;
});
