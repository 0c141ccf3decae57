import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';

/** A Keras initializer. */
export type Initializer = ReturnType<typeof tf.initializers.zeros>;

/** An initializer as a layer's config keeps it. */
export interface SerializedInitializer {
  className: string;
  config: tf.serialization.ConfigDict;
}

export function serializeInitializer(initializer: Initializer): tf.serialization.ConfigDict {
  return {className: initializer.getClassName(), config: initializer.getConfig()};
}

/** Takes an initializer or its config; anything registered with `tf.serialization.registerClass` works. */
export function toInitializer(source: Initializer | SerializedInitializer): Initializer {
  if ('apply' in source) return source;
  const registered = tf.serialization.SerializationMap.getMap().classNameMap[source.className];
  if (!registered) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `initializer "${source.className}": expected a registered class. Call tf.serialization.registerClass first.`,
    );
  }
  const [cls, fromConfig] = registered;
  return fromConfig(cls, source.config) as unknown as Initializer;
}
