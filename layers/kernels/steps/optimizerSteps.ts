import {adamW8bitStep} from './adamW8bitStep.ts';
import {adamWStep} from './adamWStep.ts';
import {lion8bitStep} from './lion8bitStep.ts';
import {lionStep} from './lionStep.ts';
import type {OptimizerStep} from './optimizerStep.ts';

/** All optimizer updates that run over plain arrays. */
export const OPTIMIZER_STEPS: OptimizerStep[] = [adamW8bitStep, adamWStep, lion8bitStep, lionStep];
