import type {Parameter} from './parameter.ts';

/** The name of an adapter that is not given one. */
export const DEFAULT_ADAPTER = 'default';

/**
 * Weights that change what one layer computes. They are switched on and off, trained, saved and merged apart from the
 * layer's own. What they are depends on the kind: low-rank matrices, a copy of the layer, or rows of its table.
 */
export abstract class Adapter {
  /** Factor on the whole update. Default 1. */
  weight = 1;
  private trains = true;
  private isHeld = false;

  constructor(private currentName: string) {}

  get name(): string {
    return this.currentName;
  }

  /**
   * Gives it another name, and its weights with it.
   *
   * @param where the layer's name
   */
  rename(name: string, where: string): void {
    this.currentName = name;
    for (const [key, parameter] of this.parameters) parameter.rename(`${where}.${this.placedKey(key)}`);
  }

  /** The weights by their names in a PEFT file, which follow the layer's name. */
  abstract get parameters(): Map<string, Parameter>;

  /** The weights that it uses, also those that another layer's adapter owns. */
  get sources(): Parameter[] {
    return [...this.parameters.values()];
  }

  /** Whether the weights are its own, and not those of another layer's adapter. */
  get ownsParameters(): boolean {
    return true;
  }

  /** Returns a weight's name inside a model, as PEFT has it: `lora_A.default.weight` for `lora_A.weight`. */
  placedKey(key: string): string {
    const end = key.indexOf('.');
    return end < 0 ? `${key}.${this.name}` : `${key.slice(0, end)}.${this.name}${key.slice(end)}`;
  }

  /** Whether its weights train, except those frozen individually: false while it is inactive or held. */
  get trainable(): boolean {
    return this.trains && !this.isHeld;
  }

  set trainable(trainable: boolean) {
    this.trains = trainable;
    this.holdParameters();
  }

  /** Whether it would train if its layer did. */
  get isTrainableAlone(): boolean {
    return this.trains;
  }

  /** Whether its layer freezes it; when released, it trains as it did before. */
  set held(held: boolean) {
    this.isHeld = held;
    this.holdParameters();
  }

  private holdParameters(): void {
    for (const parameter of this.parameters.values()) parameter.held = !this.trainable;
  }

  dispose(): void {
    for (const parameter of this.parameters.values()) parameter.dispose();
  }
}
