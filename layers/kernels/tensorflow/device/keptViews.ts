import {keptFor} from '../../keptFor.ts';
import type {Handle, TensorFlowBackend} from './tensorflowBackend.ts';

/**
 * What is made of a tensor once and kept as long as that: for views, which take no memory but an op each.
 *
 * @param of freed by the binding, it takes its views along
 * @param name of the view, one of those of `of`
 * @param make gives a handle that nothing else frees
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

/** Of each handle by its id: they go when the binding frees it. */
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
  backend.binding = Object.create(binding, {deleteTensor: {value: deleteTensor}}); // the addon's own cannot be written
  return views;
});
