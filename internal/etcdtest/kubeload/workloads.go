package kubeload

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func (m maker) pod() Op {
	ns, app := m.namespaceName(), m.base()
	name := app + "-" + suffix(m.identity.IntN(1<<30), 9) + "-" + suffix(m.index, 5)
	p := corev1.Pod{ObjectMeta: m.meta(name, ns, app), Spec: m.podSpec(app)}
	p.GenerateName = name[:len(name)-5]
	p.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "apps/v1", Kind: "ReplicaSet", Name: p.GenerateName, UID: uid(m.identity), Controller: new(true), BlockOwnerDeletion: new(true),
	}}
	p.Spec.NodeName = m.anyNode()
	p.Status = m.podStatus(p)
	return Op{Key: "/registry/pods/" + ns + "/" + name, Value: stored("v1", "Pod", &p)}
}

// podStatus is what the kubelet reports: pending at first, then running.
func (m maker) podStatus(p corev1.Pod) corev1.PodStatus {
	if m.generation == 0 {
		return corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable}
	}
	when := metav1.NewTime(m.changed())
	s := corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: "10.0.0.1", PodIP: address(m.index), PodIPs: []corev1.PodIP{{IP: address(m.index)}},
		StartTime: &when, QOSClass: corev1.PodQOSBurstable, ObservedGeneration: p.Generation,
	}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: when})
	}
	for _, c := range p.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: true, Started: new(true), Image: c.Image, RestartCount: int32(m.state.IntN(3)),
			ImageID: "registry.example.com/" + c.Name + "@sha256:" + hex(m.state, 32), ContainerID: "containerd://" + hex(m.state, 32),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: when}},
		})
	}
	return s
}

func (m maker) podSpec(app string) corev1.PodSpec {
	spec := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler",
		ServiceAccountName: app, TerminationGracePeriodSeconds: new(int64(30)), EnableServiceLinks: new(true),
		Tolerations: []corev1.Toleration{
			{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(300))},
			{Key: "node.kubernetes.io/unreachable", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(300))},
		},
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: app}, DefaultMode: new(int32(0o644))}}},
			{Name: "kube-api-access-" + suffix(m.index, 5), VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(0o644))}}},
		},
	}
	names := []string{"app", "proxy", "logs"}
	for _, name := range names[:1+m.identity.IntN(len(names))] {
		c := corev1.Container{
			Name: name, Image: fmt.Sprintf("registry.example.com/%s:%d.%d.%d", app, m.identity.IntN(9), m.identity.IntN(30), m.identity.IntN(30)),
			ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			Args:  []string{"--config=/etc/app/config.yaml", "--log-format=json"},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, {Name: "metrics", ContainerPort: 9090, Protocol: corev1.ProtocolTCP}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(100, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(128<<20, resource.BinarySI)},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(512<<20, resource.BinarySI)},
			},
			ReadinessProbe: probe("/readyz"), LivenessProbe: probe("/healthz"),
			VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/app", ReadOnly: true}},
		}
		for range 6 + m.identity.IntN(24) {
			c.Env = append(c.Env, corev1.EnvVar{Name: "APP_" + word(m.identity) + "_" + suffix(m.identity.IntN(1<<20), 3), Value: settings(m.identity, 20)})
		}
		spec.Containers = append(spec.Containers, c)
	}
	return spec
}

func probe(path string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:   corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("http"), Scheme: corev1.URISchemeHTTP}},
		TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
	}
}

func (m maker) template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: m.labels(app), Annotations: map[string]string{"checksum/config": hex(m.identity, 32)}},
		Spec:       m.podSpec(app),
	}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": app}}
}

func (m maker) deployment() Op {
	ns, name := m.namespaceName(), m.name()
	replicas := int32(1 + m.identity.IntN(5))
	d := appsv1.Deployment{
		ObjectMeta: m.meta(name, ns, name),
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: selector(name), Template: m.template(name), RevisionHistoryLimit: new(int32(10)),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType}, ProgressDeadlineSeconds: new(int32(600)),
		},
		Status: appsv1.DeploymentStatus{ObservedGeneration: int64(m.generation), Replicas: replicas, ReadyReplicas: int32(m.state.IntN(int(replicas) + 1))},
	}
	return Op{Key: "/registry/deployments/" + ns + "/" + name, Value: stored("apps/v1", "Deployment", &d)}
}

func (m maker) replicaSet() Op {
	ns, name := m.namespaceName(), m.name()
	replicas := int32(m.identity.IntN(5))
	r := appsv1.ReplicaSet{
		ObjectMeta: m.meta(name, ns, name),
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: selector(name), Template: m.template(name)},
		Status:     appsv1.ReplicaSetStatus{Replicas: replicas, ReadyReplicas: int32(m.state.IntN(int(replicas) + 1))},
	}
	return Op{Key: "/registry/replicasets/" + ns + "/" + name, Value: stored("apps/v1", "ReplicaSet", &r)}
}

func (m maker) job() Op {
	ns, name := m.namespaceName(), m.name()
	j := batchv1.Job{
		ObjectMeta: m.meta(name, ns, name),
		Spec:       batchv1.JobSpec{Parallelism: new(int32(1)), Completions: new(int32(1)), Selector: selector(name), Template: m.template(name)},
		Status:     batchv1.JobStatus{Succeeded: 1},
	}
	return Op{Key: "/registry/jobs/" + ns + "/" + name, Value: stored("batch/v1", "Job", &j)}
}

// autoscaler makes a HorizontalPodAutoscaler, which notes what it sees each time that it looks.
func (m maker) autoscaler() Op {
	ns, name := m.namespaceName(), m.name()
	when := metav1.NewTime(m.changed())
	load, replicas := int32(m.state.IntN(100)), int32(2+m.identity.IntN(5))
	h := autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: m.meta(name, ns, name),
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name},
			MinReplicas:    new(int32(2)), MaxReplicas: 20,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(70))},
			}}},
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			LastScaleTime: &when, CurrentReplicas: replicas, DesiredReplicas: replicas,
			CurrentMetrics: []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
				Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{
					AverageUtilization: &load, AverageValue: resource.NewMilliQuantity(int64(load)*10+int64(m.state.IntN(10)), resource.DecimalSI),
				},
			}}},
		},
	}
	for _, t := range []autoscalingv2.HorizontalPodAutoscalerConditionType{autoscalingv2.AbleToScale, autoscalingv2.ScalingActive, autoscalingv2.ScalingLimited} {
		h.Status.Conditions = append(h.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
			Type: t, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(m.created()), Reason: "ReadyForNewScale", Message: "recommended size matches current size",
		})
	}
	return Op{Key: "/registry/horizontalpodautoscalers/" + ns + "/" + name, Value: stored("autoscaling/v2", "HorizontalPodAutoscaler", &h)}
}
